"""The rollout: what a trajectory records, and what is told of its episodes."""

from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.distributions import Normal
from policy_gradients.environments.autoreset import autoreset
from policy_gradients.environments.base import Environment, EnvironmentSpec, Step, box
from policy_gradients.environments.probes import make_probe
from policy_gradients.estimation.normalization import NormalizationConfig, Statistics, init_statistics
from policy_gradients.evaluation.evaluate import make_evaluator
from policy_gradients.training.rollout import WINDOW, init_carry, rollout, rollout_metrics
from policy_gradients.types import ActorCritic

T, N = 32, 4
KEY = jax.random.key(0)
OBS = jax.ShapeDtypeStruct((1,), jnp.float32)
SPACE = box(-np.inf, np.inf, (1,))
NORMALIZED = NormalizationConfig(reward_scale=0.1)


def echo(params, obs):
    """A policy that acts what it sees, plus noise of the size exp(params)."""
    return Normal(obs, jnp.broadcast_to(params, obs.shape))


AGENT = ActorCritic(OBS, lambda key: jnp.float32(-1), echo, lambda params, obs: obs[..., 0])


class Script(NamedTuple):
    """What a scripted environment returns, row by row; [T, N] each."""

    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray


def script(ends=(), truncations=(), dummies=(), reward=1.0) -> Script:
    """Rewards of `reward` with ends, truncations and dummy rows at these (t, n)."""
    flags = np.zeros((3, T, N), bool)
    for flag, places in zip(flags, (ends, truncations, dummies), strict=True):
        for place in places:
            flag[place] = True
    return Script(np.broadcast_to(np.asarray(reward, np.float32), (T, N)).copy(), flags[0], flags[1], ~flags[2])


def scripted_environment() -> Environment:
    """The state is (t, script); observations are t, and t + ½ before the reset."""

    def step(state, action):
        t, rows = state
        reward, terminated, truncated, valid = (column[t] for column in rows)
        after = jnp.full((N, 1), t + 1, jnp.float32)
        return (t + 1, rows), Step(after, after - 0.5, reward, terminated, truncated, valid)

    spec = EnvironmentSpec("Scripted-v0", "jax", N, SPACE, SPACE)
    return Environment(spec, lambda key: ((jnp.int32(0), None), jnp.zeros((N, 1))), step, None, None)


ENV = scripted_environment()


@cache
def program():
    """`(key, statistics, carry) -> (carry, trajectory, metrics)`."""

    @jax.jit
    def act(key, statistics, carry):
        after, trajectory = rollout(AGENT, ENV, NORMALIZED, T, key, jnp.float32(-1), statistics, carry)
        return after, trajectory, rollout_metrics(carry.episodes, after.episodes, trajectory)

    return act


def statistics(mean=0.0, var=1.0) -> Statistics:
    fresh = init_statistics(NORMALIZED, OBS, N)
    moments = fresh.obs._replace(mean=jnp.full(1, mean), var=jnp.full(1, var))
    scale = fresh.reward._replace(moments=fresh.reward.moments._replace(var=jnp.float32(49)))
    return fresh._replace(obs=moments, reward=scale)


def play(*scripts, key=KEY):
    """One rollout per script, each going on where the one before ended: (last trajectory, last metrics)."""
    carry = init_carry(ENV, KEY)
    for i, rows in enumerate(scripts):
        carry = carry._replace(env_state=(jnp.int32(0), rows))
        carry, trajectory, metrics = program()(jax.random.fold_in(key, i), statistics(), carry)
    return trajectory, {name: float(value) for name, value in metrics.items()}


def test_the_return_of_an_episode_is_the_sum_of_its_raw_rewards():
    """Trap 35: unscaled, though rewards are scaled for learning; the length is the number of steps."""
    reward = np.arange(T * N, dtype=np.float32).reshape(T, N)
    _, metrics = play(script(ends=[(4, 0)], truncations=[(9, 2)], reward=reward))
    returns, lengths = [reward[:5, 0].sum(), reward[:10, 2].sum()], [5, 10]
    assert metrics["rollout/ep_rew_mean"] == pytest.approx(np.mean(returns))
    assert metrics["rollout/ep_rew_std"] == pytest.approx(np.std(returns))
    assert metrics["rollout/ep_len_mean"] == np.mean(lengths)
    assert metrics["rollout/episodes"] == 2


def test_an_episode_goes_on_from_one_rollout_to_the_next():
    _, metrics = play(script(ends=[(29, 1)]), script(ends=[(3, 1)]))
    assert metrics["rollout/ep_len_mean"] == np.mean([30, 2 + 4])
    assert metrics["rollout/ep_rew_mean"] == np.mean([30, 2 + 4])
    assert metrics["rollout/episodes"] == 1, "of this rollout alone"


def test_the_first_episode_of_a_staggered_copy_is_not_counted():
    """It was cut short, so its return says nothing; the one after it counts, also in a later rollout."""
    carry = init_carry(ENV._replace(spec=replace(ENV.spec, staggered=True)), KEY)
    rows = script(truncations=[(4, 0), (9, 2)], ends=[(14, 0)])
    for i, counted in enumerate([[10], [10, 17 + 5, 10, 22 + 10]]):
        carry = carry._replace(env_state=(jnp.int32(0), rows))
        carry, _, metrics = program()(jax.random.fold_in(KEY, i), statistics(), carry)
        assert metrics["rollout/ep_rew_mean"] == metrics["rollout/ep_len_mean"] == np.mean(counted)
        assert carry.episodes.finished == len(counted)


def test_means_over_no_episode_are_not_numbers():
    """Trap 33: never 0."""
    _, metrics = play(script())
    assert metrics["rollout/episodes"] == 0
    for name in ("rollout/ep_rew_mean", "rollout/ep_rew_std", "rollout/ep_len_mean", "rollout/truncated_fraction"):
        assert np.isnan(metrics[name]), name


def test_a_rollout_that_finishes_nothing_keeps_the_window():
    _, metrics = play(script(ends=[(4, 0)]), script())
    assert metrics["rollout/ep_len_mean"] == 5
    assert metrics["rollout/episodes"] == 0
    assert np.isnan(metrics["rollout/truncated_fraction"])


def test_the_window_holds_the_last_hundred_episodes_of_more_than_a_hundred():
    everywhere = [(t, n) for t in range(T) for n in range(N)]
    number = np.arange(T * N, dtype=np.float32).reshape(T, N)
    _, metrics = play(script(ends=everywhere, reward=number))
    assert T * N > WINDOW == 100
    assert metrics["rollout/ep_rew_mean"] == pytest.approx(np.arange(28, 128).mean())
    assert metrics["rollout/ep_rew_std"] == pytest.approx(np.arange(28, 128).std())
    assert metrics["rollout/episodes"] == 128


def test_later_episodes_push_out_the_oldest():
    everywhere = [(t, n) for t in range(T) for n in range(N)]
    number = np.arange(T * N, dtype=np.float32).reshape(T, N)
    first, later = script(ends=everywhere, reward=number), script(ends=[(0, 0), (0, 2), (1, 0)], reward=1000 + number)
    _, metrics = play(first, later)
    kept = [*range(31, 128), 1000, 1002, 1004]
    assert metrics["rollout/ep_rew_mean"] == pytest.approx(np.mean(kept))


def test_dummy_rows_add_neither_reward_nor_length_nor_ends():
    """Traps 5 and 35: a simulator's reset step, whatever numbers and flags stand in it."""
    dummies = [(5, 0), (0, 1), (7, 1), (31, 3)]
    clean = script(ends=[(4, 0), (8, 1)], dummies=dummies)
    spoilt = script(ends=[(4, 0), (8, 1), *dummies], truncations=dummies, dummies=dummies)
    spoilt.reward[~spoilt.valid] = np.nan
    _, expected = play(clean)
    _, metrics = play(spoilt)
    assert metrics == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
    assert metrics["rollout/ep_len_mean"] == np.mean([5, 9 - 2])
    assert metrics["rollout/ep_rew_mean"] == np.mean([5, 9 - 2])
    assert metrics["rollout/valid_fraction"] == 1 - len(dummies) / (T * N)


def test_an_end_that_is_also_a_truncation_is_an_end():
    _, metrics = play(script(ends=[(1, 0), (2, 1)], truncations=[(2, 1), (3, 2), (4, 3)]))
    assert metrics["rollout/episodes"] == 4
    assert metrics["rollout/truncated_fraction"] == 0.5


def test_a_trajectory_records_what_was_seen_drawn_and_returned():
    rows = script(
        ends=[(3, 1)], truncations=[(6, 2)], dummies=[(7, 2)], reward=np.random.default_rng(0).normal(size=(T, N))
    )
    trajectory, _ = play(rows)
    times = np.broadcast_to(np.arange(T, dtype=np.float32)[:, None], (T, N))
    np.testing.assert_array_equal(trajectory.obs[..., 0], times)
    np.testing.assert_array_equal(trajectory.next_obs[..., 0], times + 0.5, err_msg="before the reset (trap 6)")
    for name in Script._fields:
        np.testing.assert_array_equal(getattr(trajectory, name), getattr(rows, name))
    z = (trajectory.action[..., 0] - np.clip(times, -10, 10)) * np.exp(1)
    np.testing.assert_allclose(trajectory.log_prob, -0.5 * (z**2 + np.log(2 * np.pi)) + 1, rtol=1e-4, atol=1e-5)


def test_no_two_draws_of_a_run_are_alike():
    """Trap 38: rows, environments and updates have noise of their own, uncorrelated."""
    noise = []
    for update in range(2):
        trajectory, _ = play(script(), key=jax.random.fold_in(KEY, update))
        noise.append(np.asarray(trajectory.action - np.clip(trajectory.obs, -10, 10))[..., 0])
    noise = np.stack(noise)
    assert len(np.unique(noise)) == noise.size
    columns = noise.transpose(0, 2, 1).reshape(2 * N, T)
    correlation = np.corrcoef(columns) - np.eye(2 * N)
    assert np.abs(correlation).max() < 5 / np.sqrt(T)
    assert noise.std() == pytest.approx(np.exp(-1), rel=0.2)


def test_the_first_row_is_normalised_as_in_evaluation():
    """Trap 10: the policy acts what it sees, the reward is the action, and every episode is one step from s = 7."""

    def reset(key):
        return jnp.float32(7), jnp.full(1, 7.0)

    def step(key, state, action):
        return state, jnp.full(1, 7.0), action[0], jnp.bool_(True)

    env = autoreset(EnvironmentSpec("Echo-v0", "jax", 2, SPACE, SPACE), reset, step, max_episode_steps=1)
    seen = statistics(mean=3.0, var=16.0)
    noiseless = jnp.float32(-20)
    acting = jax.jit(partial(rollout, AGENT, env, NORMALIZED, 2))
    _, trajectory = acting(KEY, noiseless, seen, init_carry(env, KEY))
    scores = make_evaluator(AGENT, env, NORMALIZED, 1)(KEY, noiseless, seen, True)
    np.testing.assert_allclose(trajectory.reward[0], (7 - 3) / 4, rtol=1e-6)
    np.testing.assert_allclose(scores.returns[:, 0], trajectory.reward[0], rtol=1e-6)


def test_the_mean_return_is_not_biased_to_short_episodes():
    """Trap 34: episodes of 2 and 18 steps with even odds have a mean of 10, whichever ends first."""
    env = make_probe("ProbeMixedLengths-v0", num_envs=64, continuous=True)
    raw = NormalizationConfig(obs=False)

    @jax.jit
    def act(carry, key):
        after, trajectory = rollout(AGENT, env, raw, 16, key, jnp.float32(-1), Statistics(None, None, None), carry)
        return after, rollout_metrics(carry.episodes, after.episodes, trajectory)

    _, metrics = jax.lax.scan(act, init_carry(env, KEY), jax.random.split(KEY, 60))
    # at first all environments start together, and short episodes do end first
    means = [metrics[name][10:].mean() for name in ("rollout/ep_rew_mean", "rollout/ep_len_mean")]
    # a window's mean has a standard deviation of 8/√100; fifty of them leave 0.12
    np.testing.assert_allclose(means, 10, atol=0.5)
