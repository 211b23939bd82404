"""The trainer that PPO is measured beside computes what this library's PPO computes, so the comparison is of speed."""

import argparse
import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.algorithms import PPOConfig
from policy_gradients.algorithms.ppo import ppo_loss
from policy_gradients.distributions import Categorical
from policy_gradients.environments.registry import make
from policy_gradients.estimation.advantages import gae
from policy_gradients.estimation.batches import Batch, standardize
from policy_gradients.types import ActorCritic

OPTIONS = argparse.Namespace(gamma=0.9, gae_lambda=0.8, clip_eps=0.1, value_coef=0.7, entropy_coef=0.2, hidden=(8, 8))


@pytest.fixture(scope="module")
def trainer():
    """The benchmark's trainer, as a module."""
    path = Path(__file__).parents[2] / "benchmarks" / "scan_trainer.py"
    spec = importlib.util.spec_from_file_location("scan_trainer", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scan_trainer"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows(trainer):
    """Random rows [T, N] = [12, 3], with ends of episodes among them."""
    draw = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(draw.normal(size=(12, 3, *shape)), jnp.float32)  # noqa: E731
    action = jnp.asarray(draw.integers(0, 2, (12, 3)), jnp.int32)
    done = jnp.asarray(draw.random((12, 3)) < 0.2)
    return trainer.Row(normal(4), action, -jnp.abs(normal()), normal(), normal(), done)


def test_its_loss_is_ours(trainer, rows):
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)
    advantage, target = flat.reward, flat.value
    with jax.numpy_rank_promotion("allow"):
        params = trainer.init_networks(OPTIONS.hidden, jax.random.key(0))
        theirs = trainer.loss(OPTIONS, params, flat, advantage, target)
        policy = lambda params, obs: Categorical(trainer.forward(params["actor"], obs))  # noqa: E731
        agent = ActorCritic(jax.ShapeDtypeStruct((4,), jnp.float32), lambda key: params, policy, trainer.critic)
        config = PPOConfig(clip_eps=OPTIONS.clip_eps, value_coef=OPTIONS.value_coef, entropy_coef=OPTIONS.entropy_coef)
        valid = jnp.ones(36, jnp.bool_)
        batch = Batch(flat.obs, flat.action, flat.log_prob, standardize(advantage, valid), target, jnp.zeros(36), valid)
        ours, _ = ppo_loss(agent, config, params, batch)
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)


def test_its_advantages_are_ours_where_no_limit_cuts(trainer, rows):
    last_value = jnp.array([0.3, -1.0, 2.0])
    after = jnp.concatenate([rows.value[1:], last_value[None]])
    none, valid = jnp.zeros_like(rows.done), jnp.ones_like(rows.done)
    ours = gae(rows.reward, rows.value, after, rows.done, none, valid, gamma=0.9, gae_lambda=0.8)
    np.testing.assert_allclose(trainer.estimate(OPTIONS, rows, last_value), ours, rtol=1e-5, atol=1e-6)


def test_its_copy_of_our_cartpole_lives_through_the_same_steps(trainer):
    copy, env = trainer.classic_copy(), make("CartPole-v1", 1)
    step, env_step, left = jax.jit(copy.step), jax.jit(env.step), jnp.zeros(1, jnp.int32)
    state, obs = env.reset(jax.random.key(0))
    own_state = (obs[0], jnp.int32(0))
    for t in range(12):
        state, out = env_step(state, left)
        own_obs, own_state, reward, done = step(jax.random.key(t), own_state, left[0])
        assert (bool(done), float(reward)) == (bool(out.terminated[0]), float(out.reward[0]))
        if done:
            assert int(own_state[1]) == 0 and float(jnp.abs(own_obs).max()) <= 0.05
            return
        np.testing.assert_allclose(own_obs, out.obs[0], rtol=1e-6)
    pytest.fail("a cart that is pushed to the left for 12 steps loses its pole")


def test_its_copy_of_our_cartpole_ends_with_the_500th_step(trainer):
    step = jax.jit(trainer.classic_copy().step)
    ends = [bool(step(jax.random.key(0), (jnp.zeros(4), jnp.int32(t)), jnp.int32(0))[3]) for t in (498, 499)]
    assert ends == [False, True]
