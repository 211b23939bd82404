"""CartPole-v1 by every algorithm."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.environments.classic import make_classic
from policy_gradients.evaluation.evaluate import make_evaluator
from policy_gradients.training.preset import compose
from policy_gradients.training.rollout import init_carry
from policy_gradients.training.setup import build

SEEDS, EPISODES = 5, 20
OBSERVATIONS_ALONE = {"obs": True, "reward": False}
SETTINGS: dict[str, tuple[int, dict[str, Any]]] = {
    # total environment steps, and what differs from the preset
    "ppo": (100_000, {}),
    "trpo": (
        300_000,
        {
            "env": {"num_envs": 8},
            "hyperparameters": {"num_steps": 128, "num_minibatches": 4, "normalization": OBSERVATIONS_ALONE},
        },
    ),
    "vmpo": (
        300_000,
        {
            "env": {"num_envs": 8},
            "hyperparameters": {
                "num_steps": 128,
                "num_epochs": 10,
                "learning_rate": 1e-3,
                "eps_eta": 0.1,
                "eps_mean": 0.02,
                "normalization": OBSERVATIONS_ALONE,
            },
        },
    ),
    "a2c": (
        300_000,
        {
            "env": {"num_envs": 8},
            "hyperparameters": {"num_steps": 16, "learning_rate": 2e-3, "normalization": OBSERVATIONS_ALONE},
        },
    ),
    "reinforce": (
        500_000,
        {
            "env": {"num_envs": 8},
            "hyperparameters": {
                "num_steps": 256,
                "learning_rate": 1e-2,
                "normalization": OBSERVATIONS_ALONE | {"value": True},
            },
        },
    ),
    "reinforce-value": (
        500_000,
        {
            "env": {"num_envs": 8},
            "hyperparameters": {
                "num_steps": 256,
                "baseline": "value",
                "learning_rate": 5e-3,
                "normalization": OBSERVATIONS_ALONE | {"value": True},
            },
        },
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_the_median_of_five_seeds_balances_the_pole(name):
    """At least 475 (Gymnasium's threshold) by the deterministic policy, over 20 episodes of each seed."""
    total_steps, settings = SETTINGS[name]
    base = {"algorithm": name.split("-")[0], "env": {"id": "CartPole-v1"}, "total_steps": total_steps}
    experiment, _ = compose(base, settings)
    env = make_classic("CartPole-v1", experiment.env.num_envs)
    parts = build(experiment, env)
    updates = -(-total_steps // (experiment.env.num_envs * experiment.hyperparameters.num_steps))

    def train(key):
        learner_key, env_key, update_key = jax.random.split(key, 3)

        def step(state, update):
            learner, carry, metrics = parts.iteration(jax.random.fold_in(update_key, update), *state)
            return (learner, carry), metrics["rollout/ep_rew_mean"]

        start = parts.algorithm.init(learner_key), init_carry(env, env_key)
        (learner, _), curve = jax.lax.scan(step, start, jnp.arange(updates))
        return learner, curve

    learners, curves = jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), SEEDS))
    evaluate = make_evaluator(
        parts.agent, make_classic("CartPole-v1", EPISODES), experiment.hyperparameters.normalization, episodes=1
    )
    scores = []
    for seed in range(SEEDS):
        learner = jax.tree.map(lambda leaf, seed=seed: leaf[seed], learners)
        assert int(learner.step) >= total_steps
        scores.append(evaluate(jax.random.key(seed), learner.params, learner.statistics, True).returns.mean())
    assert np.median(scores) >= 475, f"{scores}; training returns {curves[:, -1]}"
