"""Trap 38: over a whole run, from initialisation to the last evaluation, no random key is consumed twice."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.algorithms import PPOConfig
from policy_gradients.environments.autoreset import autoreset
from policy_gradients.environments.base import EnvironmentSpec, box
from policy_gradients.networks import NetworkConfig
from policy_gradients.training import loop, session
from policy_gradients.training.config import (
    CheckpointConfig,
    EnvironmentConfig,
    EvaluationConfig,
    Experiment,
    LoggingConfig,
)

N, T, UPDATES, EPOCHS, LIMIT = 3, 4, 4, 2, 6
EXPERIMENT = Experiment(
    hyperparameters=PPOConfig(num_steps=T, num_epochs=EPOCHS, num_minibatches=1),
    env=EnvironmentConfig(id="Noise-v0", num_envs=N),
    network=NetworkConfig(hidden=(4,)),
    evaluation=EvaluationConfig(num_evaluations=2, episodes=1, stochastic_episodes=1),
    checkpoint=CheckpointConfig(num_checkpoints=1),
    logging=LoggingConfig(progress="none"),
    total_steps=N * T * UPDATES,
    video=False,
)


def noise_environment(num_envs):
    """Draws at every reset and at every step; copies end together, at the time limit."""

    def reset(key):
        return jnp.int32(0), jax.random.uniform(key, (2,))

    def step(key, state, action):
        return state, jax.random.uniform(key, (2,)), jnp.float32(0), jnp.bool_(False)

    space = box(-1, 1, (2,))
    return autoreset(EnvironmentSpec("Noise-v0", "jax", num_envs, space, space), reset, step, LIMIT)


@pytest.fixture(scope="module")
def draws(tmp_path_factory):
    """Every key that was consumed in a run, and what for, by the sampler that consumed it."""
    consumed = []

    def watched(purpose, sampler):
        def draw(key, *args, **kwargs):
            note = lambda data: consumed.append((purpose, tuple(np.asarray(data).tolist())))  # noqa: E731
            jax.debug.callback(note, jax.random.key_data(key))
            return sampler(key, *args, **kwargs)

        return draw

    make_orthogonal = jax.nn.initializers.orthogonal
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "normal", watched("action", jax.random.normal))
        patch.setattr(jax.random, "bits", watched("shuffle", jax.random.bits))
        patch.setattr(jax.random, "uniform", watched("environment", jax.random.uniform))
        patch.setattr(jax.nn.initializers, "orthogonal", lambda *args: watched("weights", make_orthogonal(*args)))
        patch.setattr(session, "make_pictures", lambda *args, **kwargs: None)
        loop.train(EXPERIMENT, tmp_path_factory.mktemp("run") / "run", make_env=noise_environment)
        jax.effects_barrier()
    return consumed


def test_no_key_is_consumed_twice(draws):
    uses = {}
    for purpose, key in draws:
        uses.setdefault(key, []).append(purpose)
    assert [purposes for purposes in uses.values() if len(purposes) > 1] == []


def test_the_draws_of_a_run_are_those_that_one_would_count(draws):
    """One per layer, minibatch order, policy step, and copy and step of the environments: nothing escapes the watch."""
    counts = Counter(purpose for purpose, _ in draws)
    training, evaluation = T * UPDATES, 2 * LIMIT
    assert counts["weights"] == 4
    assert counts["shuffle"] == EPOCHS * UPDATES
    assert counts["action"] == training + evaluation
    resets = N * (1 + training // LIMIT) + 2 * (2 + 2)
    assert counts["environment"] == N * training + 2 * evaluation + resets
