"""Metrics of the first updates as they were when they were last looked at, to notice a change that nobody meant.

A change that is meant is recorded with `UPDATE_GOLDEN=1 pytest tests/golden`; its diff belongs to the change's review.
"""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from policy_gradients.algorithms import PPOConfig
from policy_gradients.networks import NetworkConfig
from policy_gradients.training.config import EnvironmentConfig, Experiment, to_mapping
from policy_gradients.training.rollout import init_carry
from policy_gradients.training.setup import build, make_environment

UPDATES = 3
EXPERIMENTS = {
    "ppo_cartpole": Experiment(
        hyperparameters=PPOConfig(
            num_steps=16, num_epochs=2, num_minibatches=4, learning_rate=1e-3, entropy_coef=0.01, value_clip_eps=0.5
        ),
        env=EnvironmentConfig(id="CartPole-v1", num_envs=4),
        network=NetworkConfig(hidden=(16, 16)),
        total_steps=16 * 4 * 5,
        seed=1,
    ),
}


def recorded(name: str) -> Path:
    return Path(__file__).parent / f"{name}.json"


def record_of(experiment: Experiment) -> dict:
    """The configuration and, of each update, every metric; a metric that is not a number is None."""
    env = make_environment(experiment, experiment.env.num_envs)
    parts = build(experiment, env)
    keys = jax.random.split(jax.random.key(experiment.seed), 2 + UPDATES)
    learner, carry = jax.jit(lambda a, b: (parts.algorithm.init(a), init_carry(env, b)))(keys[0], keys[1])
    rows = []
    for key in keys[2:]:
        learner, carry, metrics = parts.iteration(key, learner, carry)
        numbers = {metric: float(value) for metric, value in sorted(jax.device_get(metrics).items())}
        rows.append({metric: None if np.isnan(value) else value for metric, value in numbers.items()})
    return {"configuration": json.loads(json.dumps(to_mapping(experiment))), "metrics": rows}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_first_updates_give_the_recorded_metrics(name):
    """Within 1e-3: CPUs add in different orders, and three updates let that grow to some 1e-5."""
    found = record_of(EXPERIMENTS[name])
    if os.environ.get("UPDATE_GOLDEN") == "1":
        recorded(name).write_text(json.dumps(found, indent=1) + "\n")
    expected = json.loads(recorded(name).read_text())
    assert found["configuration"] == expected["configuration"], "record anew: the experiment is another one"
    for update, (row, golden) in enumerate(zip(found["metrics"], expected["metrics"], strict=True), start=1):
        assert row.keys() == golden.keys()
        for metric, value in golden.items():
            message = f"{metric} of update {update}"
            if value is None or row[metric] is None:
                assert row[metric] == value, message
            else:
                np.testing.assert_allclose(row[metric], value, rtol=1e-3, atol=1e-5, err_msg=message)
