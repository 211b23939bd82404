"""Running statistics and the three normalisers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_gradients.estimation.normalization import (
    Count,
    NormalizationConfig,
    RewardScale,
    Statistics,
    advance,
    denormalize_value,
    init_moments,
    init_statistics,
    normalize,
    normalize_obs,
    normalize_transition,
    normalize_value,
    scale_reward,
    update_moments,
    update_reward_scale,
)
from policy_gradients.types import Transition

T, N, D = 6, 2, 3

update = jax.jit(update_moments)
update_scale = jax.jit(update_reward_scale)


def count(n):
    return Count(jnp.int32(n >> 30), jnp.int32(n & (2**30 - 1)))


def valid_rows(*shape):
    return jnp.ones(shape, bool)


@pytest.mark.parametrize("start", [0, 2**24, 2**30 - 1, 2**31, 2**40])
def test_a_count_is_exact_past_what_float32_and_int32_hold(start):
    assert int(jax.jit(Count.add)(count(start), jnp.int32(1))) == start + 1
    assert int(count(start).add(jnp.int32(2**30 - 1))) == start + 2**30 - 1
    np.testing.assert_allclose(count(start).as_float(), start, rtol=1e-7)


def test_many_additions_carry_from_word_to_word():
    total = jax.jit(lambda: jax.lax.fori_loop(0, 9, lambda i, c: c.add(jnp.int32(2**30 - 1)), Count.zero()))()
    assert int(total) == 9 * (2**30 - 1)


def test_a_count_of_rows_goes_on_past_the_last_integer_of_float32():
    moments = init_moments((D,))._replace(count=count(2**24))
    for k in range(1, 4):
        moments = update(moments, jnp.zeros((1, D)), valid_rows(1))
        assert int(moments.count) == 2**24 + k


@given(cuts=st.lists(st.integers(0, 60), max_size=5), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_batches_merged_in_any_split_are_the_moments_of_the_concatenation(cuts, seed):
    """Ten blocks of equal shape, of which the cuts say which rows count, so that one compiled update serves all."""
    rng = np.random.default_rng(seed)
    rows = (rng.normal(size=(60, D)) * [1, 30, 0.1] + [0, 500, -2]).astype(np.float32)
    moments = init_moments((D,))
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 60], strict=True):
        inside = (np.arange(60) >= start) & (np.arange(60) < stop)
        moments = update(moments, jnp.asarray(rows), jnp.asarray(inside))
    assert int(moments.count) == 60
    np.testing.assert_allclose(moments.mean, rows.astype(np.float64).mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(moments.var, rows.astype(np.float64).var(0), rtol=1e-4)


def test_the_variance_survives_a_mean_a_thousand_times_larger():
    rows = np.random.default_rng(0).normal(1000, 1, (20, 50, 1)).astype(np.float32)
    moments = init_moments((1,))
    for block in rows:
        moments = update(moments, jnp.asarray(block), valid_rows(50))
    np.testing.assert_allclose(moments.var, rows.astype(np.float64).var(), rtol=1e-3)


def test_the_first_batch_replaces_the_initial_zero_and_one():
    rows = np.random.default_rng(0).normal(5, 3, (T, N, D)).astype(np.float32)
    moments = update(init_moments((D,)), jnp.asarray(rows), valid_rows(T, N))
    np.testing.assert_allclose(moments.mean, rows.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(moments.var, rows.var((0, 1)), rtol=1e-5)


def test_dummy_rows_are_not_there_even_when_they_hold_nan():
    rows = np.random.default_rng(0).normal(size=(T, N, D)).astype(np.float32)
    valid = np.random.default_rng(1).random((T, N)) < 0.5
    rows[~valid] = np.nan
    moments = update(init_moments((D,)), jnp.asarray(rows), jnp.asarray(valid))
    assert int(moments.count) == valid.sum()
    np.testing.assert_allclose(moments.mean, rows[valid].mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moments.var, rows[valid].var(0), rtol=1e-5)


def test_a_batch_of_dummy_rows_changes_nothing():
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(T, N, D)), jnp.float32)
    before = update(init_moments((D,)), rows, valid_rows(T, N))
    after = update(before, jnp.full((T, N, D), jnp.nan), jnp.zeros((T, N), bool))
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_normalising_with_the_statistics_of_nothing_is_the_identity():
    rows = jnp.array([[0.5, -3.0, 2.0]])
    np.testing.assert_allclose(normalize(init_moments((D,)), rows, 10.0), rows, rtol=1e-6)


def test_normalised_rows_have_mean_zero_and_deviation_one_and_are_clipped():
    rows = np.random.default_rng(0).normal(5, 3, (500, D)).astype(np.float32)
    moments = update(init_moments((D,)), jnp.asarray(rows), valid_rows(500))
    scaled = np.asarray(normalize(moments, jnp.asarray(rows), 10.0))
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(0), 1, rtol=1e-5)
    far = normalize(moments, jnp.array([[1e6, -1e6, 5.0]]), 10.0)
    np.testing.assert_allclose(far[0, :2], [10, -10])


def test_a_coordinate_that_never_moves_stays_finite():
    moments = update(init_moments((D,)), jnp.full((9, D), 7.0), valid_rows(9))
    np.testing.assert_array_equal(normalize(moments, jnp.full((1, D), 7.0), 10.0), np.zeros((1, D)))


def fresh_scale(num_envs=N):
    return RewardScale(jnp.zeros(num_envs), init_moments(()))


def slow_running_returns(reward, done, gamma):
    """Every R of R ← γ R + r, which starts again at 0 after an end."""
    out, running = np.zeros_like(reward, dtype=np.float64), np.zeros(reward.shape[1])
    for t in range(len(reward)):
        running = gamma * running + reward[t]
        out[t] = running
        running = np.where(done[t], 0, running)
    return out


def test_the_reward_scale_is_the_deviation_of_the_running_discounted_return():
    rng = np.random.default_rng(0)
    reward, done = rng.normal(1, 2, (40, N)).astype(np.float32), rng.random((40, N)) < 0.2
    scale = fresh_scale()
    for part in (slice(0, 15), slice(15, 40)):  # the return runs on from one rollout into the next
        arrays = (jnp.asarray(reward[part]), jnp.asarray(done[part]))
        scale = update_scale(scale, *arrays, valid_rows(*reward[part].shape), jnp.float32(0.9))
    expected = slow_running_returns(reward, done, 0.9)
    np.testing.assert_allclose(scale.std, expected.std(), rtol=1e-5)
    np.testing.assert_allclose(scale.running_return, np.where(done[-1], 0, expected[-1]), rtol=1e-5)


def test_a_last_reward_counts_for_its_own_episode_and_nothing_carries_into_the_next():
    reward = jnp.array([0.0, 10.0, 0.0, 0.0])[:, None]
    done = jnp.array([False, True, False, False])[:, None]
    scale = update_scale(fresh_scale(1), reward, done, valid_rows(4, 1), jnp.float32(0.5))
    np.testing.assert_allclose(scale.moments.mean, 10 / 4)  # R is 0, 10, 0, 0: not 0, 0, 5, 2.5 and not 0, 10, 5, 2.5
    np.testing.assert_allclose(scale.moments.var, np.var([0, 10, 0, 0]))
    np.testing.assert_array_equal(scale.running_return, [0])


def test_dummy_rows_leave_the_running_return_as_it_is():
    reward = jnp.array([1.0, jnp.nan, 1.0])[:, None]
    valid = jnp.array([True, False, True])[:, None]
    scale = update_scale(fresh_scale(1), reward, ~valid, valid, jnp.float32(0.5))
    np.testing.assert_allclose(scale.running_return, [1.5])
    assert int(scale.moments.count) == 2
    np.testing.assert_allclose(scale.moments.mean, (1 + 1.5) / 2)


@pytest.mark.parametrize("reward", [2.0, -2.0])
def test_scaling_keeps_the_sign_of_a_constant_reward(reward):
    config = NormalizationConfig(reward=True)
    rewards = jnp.full((T, N), reward)
    scale = update_scale(fresh_scale(), rewards, jnp.zeros((T, N), bool), valid_rows(T, N), jnp.float32(0.9))
    scaled = scale_reward(config, Statistics(None, scale, None), rewards)
    assert np.all(np.sign(scaled) == np.sign(reward))
    np.testing.assert_allclose(scaled, rewards / scale.std, rtol=1e-6)


def test_the_constant_factor_comes_before_the_running_scale():
    config = NormalizationConfig(reward=False, reward_scale=0.1)
    np.testing.assert_allclose(scale_reward(config, Statistics(None, None, None), jnp.array([5.0])), [0.5])


def test_values_denormalise_to_what_was_normalised():
    value = update(init_moments(()), jnp.array([100.0, 300.0, 260.0]), valid_rows(3))
    statistics = Statistics(None, None, value)
    targets = jnp.array([120.0, -40.0])
    normalised = normalize_value(statistics, targets)
    np.testing.assert_allclose(normalised, (targets - 220) / np.std([100, 300, 260]), rtol=1e-5)
    np.testing.assert_allclose(denormalize_value(statistics, normalised), targets, rtol=1e-4)


def test_a_normaliser_that_is_off_changes_nothing():
    off = Statistics(None, None, None)
    config = NormalizationConfig(obs=False, reward=False)
    x = jnp.array([3.0, 1e9])
    for same in (normalize_obs(config, off, x), scale_reward(config, off, x), normalize_value(off, x)):
        np.testing.assert_array_equal(same, x)
    np.testing.assert_array_equal(denormalize_value(off, x), x)


def test_pixels_are_never_normalised():
    statistics = init_statistics(NormalizationConfig(), jax.ShapeDtypeStruct((4, 4, 1), jnp.uint8), N)
    assert statistics.obs is None
    pixels = jnp.full((2, 4, 4, 1), 200, jnp.uint8)
    assert normalize_obs(NormalizationConfig(), statistics, pixels) is pixels


def trajectory(valid=None):
    rng = np.random.default_rng(0)
    valid = np.ones((T, N), bool) if valid is None else valid
    number = lambda *shape: np.where(valid.reshape(T, N, *(1,) * len(shape)), rng.normal(size=(T, N, *shape)), np.nan)  # noqa: E731
    fields = {"obs": number(D), "next_obs": number(D), "reward": number(), "action": number(1), "log_prob": number()}
    flags = {"terminated": rng.random((T, N)) < 0.2, "truncated": rng.random((T, N)) < 0.2, "valid": valid}
    arrays = {name: jnp.asarray(array, jnp.float32) for name, array in fields.items()}
    return Transition(**arrays, **{name: jnp.asarray(array) for name, array in flags.items()})


def test_advancing_counts_each_state_acted_in_once():
    config = NormalizationConfig(value=True, reward_scale=2.0)
    rows = trajectory()
    target = jnp.asarray(np.random.default_rng(1).normal(size=(T, N)), jnp.float32)
    before = init_statistics(config, jax.ShapeDtypeStruct((D,), jnp.float32), N)
    after = jax.jit(lambda *args: advance(config, *args))(before, rows, target, jnp.float32(0.9))
    assert [int(m.count) for m in (after.obs, after.reward.moments, after.value)] == [T * N] * 3
    np.testing.assert_allclose(after.obs.mean, np.asarray(rows.obs).mean((0, 1)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after.value.mean, np.asarray(target).mean(), rtol=1e-5, atol=1e-6)
    running = slow_running_returns(2 * np.asarray(rows.reward), np.asarray(rows.terminated | rows.truncated), 0.9)
    np.testing.assert_allclose(after.reward.std, running.std(), rtol=1e-5)


def test_dummy_rows_of_nan_leave_every_statistic_finite():
    config = NormalizationConfig(value=True)
    valid = np.ones((T, N), bool)
    valid[3] = False
    rows = trajectory(valid)
    before = init_statistics(config, jax.ShapeDtypeStruct((D,), jnp.float32), N)
    after = jax.jit(lambda *args: advance(config, *args))(before, rows, rows.reward, jnp.float32(0.9))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    assert int(after.obs.count) == (T - 1) * N


def test_a_transition_is_seen_with_one_set_of_statistics():
    """s and s′ of a step pass through the same normaliser, and flags, actions and log-probabilities pass unchanged."""
    config = NormalizationConfig()
    rows = trajectory()
    moments = update(init_moments((D,)), rows.obs * 3 + 1, valid_rows(T, N))
    seen = normalize_transition(config, Statistics(moments, fresh_scale(), None), rows)
    np.testing.assert_array_equal(seen.obs, normalize(moments, rows.obs, 10.0))
    np.testing.assert_array_equal(seen.next_obs, normalize(moments, rows.next_obs, 10.0))
    for name in ("action", "log_prob", "terminated", "truncated", "valid"):
        np.testing.assert_array_equal(getattr(seen, name), getattr(rows, name))


def test_dummy_rows_of_nan_are_seen_as_zeros():
    """A NaN that a mask hides from a loss comes back in the gradient as 0 · NaN."""
    valid = np.ones((T, N), bool)
    valid[3] = False
    config = NormalizationConfig()
    statistics = init_statistics(config, jax.ShapeDtypeStruct((D,), jnp.float32), N)
    seen = normalize_transition(config, statistics, trajectory(valid))
    for name in ("obs", "next_obs", "reward", "action", "log_prob"):
        rows = np.asarray(getattr(seen, name))
        assert np.isfinite(rows).all() and rows[valid].all()
        assert not rows[~valid].any()
