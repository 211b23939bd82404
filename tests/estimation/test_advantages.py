"""GAE and returns against slow sums in float64, and what may never reach across the end of an episode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_gradients.estimation.advantages import discounted_returns, gae

T, N = 12, 3
FIELDS = ("reward", "value", "next_value", "terminated", "truncated", "valid")

gae_jit = jax.jit(gae)
returns_jit = jax.jit(discounted_returns)


def rollout(seed, end_rate=0.2):
    """A random trajectory [T, N] of NumPy arrays; both kinds of end and both at once, no dummy rows."""
    rng = np.random.default_rng(seed)
    arrays = {name: rng.normal(size=(T, N)).astype(np.float32) for name in FIELDS[:3]}
    flags = {name: rng.random((T, N)) < end_rate for name in FIELDS[3:5]}
    return {**arrays, **flags, "valid": np.ones((T, N), bool)}


def advantages(rows, gamma=0.9, gae_lambda=0.8):
    args = [jnp.asarray(rows[name]) for name in FIELDS]
    return np.asarray(gae_jit(*args, gamma=jnp.float32(gamma), gae_lambda=jnp.float32(gae_lambda)))


def returns(rows, gamma=0.9):
    args = [jnp.asarray(rows[name]) for name in FIELDS if name != "value"]
    return np.asarray(returns_jit(*args, gamma=jnp.float32(gamma)))


def deltas(rows, gamma):
    bootstrap = np.where(rows["terminated"], 0.0, rows["next_value"].astype(np.float64))
    return rows["reward"].astype(np.float64) + gamma * bootstrap - rows["value"]


def slow_gae(rows, gamma, gae_lambda):
    """Â_t = Σ_k (γλ)^k δ_{t+k} up to and with the first end, as a double sum."""
    delta, end = deltas(rows, gamma), rows["terminated"] | rows["truncated"]
    total = np.zeros((T, N))
    for i in range(N):
        for t in range(T):
            for k in range(t, T):
                total[t, i] += (gamma * gae_lambda) ** (k - t) * delta[k, i]
                if end[k, i]:
                    break
    return total


def slow_returns(rows, gamma):
    """G_t = Σ γ^k r_{t+k} up to the first end, and the bootstrap where that is a cut, or the rollout's edge."""
    total = np.zeros((T, N))
    for i in range(N):
        for t in range(T):
            for k in range(t, T):
                total[t, i] += gamma ** (k - t) * rows["reward"][k, i]
                if rows["terminated"][k, i]:
                    break
                if rows["truncated"][k, i] or k == T - 1:
                    total[t, i] += gamma ** (k - t + 1) * rows["next_value"][k, i]
                    break
    return total


seeds, fractions = st.integers(0, 2**32 - 1), st.floats(0, 1)
examples = settings(max_examples=30, deadline=None, derandomize=True)


@given(seed=seeds, gamma=fractions, gae_lambda=fractions, end_rate=st.floats(0, 0.5))
@examples
def test_gae_is_the_double_sum_of_its_definition(seed, gamma, gae_lambda, end_rate):
    rows = rollout(seed, end_rate)
    expected = slow_gae(rows, gamma, gae_lambda)
    np.testing.assert_allclose(advantages(rows, gamma, gae_lambda), expected, rtol=1e-5, atol=2e-5)


@given(seed=seeds, gamma=fractions, end_rate=st.floats(0, 0.5))
@examples
def test_returns_are_the_double_sum_of_their_definition(seed, gamma, end_rate):
    rows = rollout(seed, end_rate)
    np.testing.assert_allclose(returns(rows, gamma), slow_returns(rows, gamma), rtol=1e-5, atol=2e-5)


@given(seed=seeds, gamma=fractions)
@examples
def test_lambda_zero_is_the_one_step_error(seed, gamma):
    rows = rollout(seed)
    np.testing.assert_allclose(advantages(rows, gamma, 0.0), deltas(rows, gamma), rtol=1e-5, atol=1e-5)


@given(seed=seeds, gamma=fractions)
@examples
def test_lambda_one_is_the_return_less_the_value_along_a_consistent_trajectory(seed, gamma):
    """Where V(s′_t) is V(s_{t+1}) within an episode, the values telescope away."""
    rows = rollout(seed)
    end = rows["terminated"] | rows["truncated"]
    rows["next_value"][:-1] = np.where(end[:-1], rows["next_value"][:-1], rows["value"][1:])
    expected = slow_returns(rows, gamma) - rows["value"]
    np.testing.assert_allclose(advantages(rows, gamma, 1.0), expected, rtol=1e-4, atol=5e-5)


@given(seed=seeds, time=st.integers(0, T - 2), flag=st.sampled_from(["terminated", "truncated"]))
@examples
def test_nothing_after_the_end_of_an_episode_changes_what_was_before(seed, time, flag):
    rows = rollout(seed)
    rows[flag][time] = True
    others = rollout(seed + 1)
    changed = {name: np.concatenate([rows[name][: time + 1], others[name][time + 1 :]]) for name in FIELDS}
    np.testing.assert_array_equal(advantages(rows)[: time + 1], advantages(changed)[: time + 1])
    np.testing.assert_array_equal(returns(rows)[: time + 1], returns(changed)[: time + 1])


@given(seed=seeds)
@examples
def test_termination_wins_where_both_flags_are_set(seed):
    rows = rollout(seed)
    only = {**rows, "truncated": rows["truncated"] & ~rows["terminated"]}
    np.testing.assert_array_equal(advantages(rows), advantages(only))
    np.testing.assert_array_equal(returns(rows), returns(only))


@given(seed=seeds)
@examples
def test_the_value_after_a_termination_is_never_read(seed):
    rows = rollout(seed)
    hidden = {**rows, "next_value": np.where(rows["terminated"], np.float32(np.nan), rows["next_value"])}
    np.testing.assert_array_equal(advantages(rows), advantages(hidden))
    np.testing.assert_array_equal(returns(rows), returns(hidden))


@given(seed=seeds)
@examples
def test_a_truncation_bootstraps_from_the_state_before_the_reset(seed):
    """The row's own next_value enters with γ; the value of the next row, which is of the new episode, does not."""
    rows = rollout(seed, end_rate=0.0)
    rows["truncated"][4] = True
    before = advantages(rows)
    rows["value"][5] += 100
    np.testing.assert_array_equal(advantages(rows)[:5], before[:5])
    rows["next_value"][4] += 1
    np.testing.assert_allclose(advantages(rows)[4] - before[4], 0.9, rtol=1e-4)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.95, 1.0])
def test_reward_one_for_ever_is_worth_what_it_is_despite_an_unseen_limit(gae_lambda):
    """One state, r = 1, limit 4, γ = 0.9: repeated targets converge to V = 10; with limits as ends they would not."""
    rows = {
        "reward": np.ones((T, N), np.float32),
        "terminated": np.zeros((T, N), bool),
        "truncated": np.tile((np.arange(T) % 4 == 3)[:, None], (1, N)),
        "valid": np.ones((T, N), bool),
    }
    value = 0.0
    for _ in range(150):
        constant = np.full((T, N), value, np.float32)
        value += advantages({**rows, "value": constant, "next_value": constant}, 0.9, gae_lambda).mean()
    assert value == pytest.approx(10, abs=1e-3)


def test_where_the_process_ends_with_the_limit_the_target_is_the_last_reward():
    rows = rollout(0)
    rows["terminated"][5] = rows["truncated"][5] = True
    np.testing.assert_allclose(advantages(rows)[5] + rows["value"][5], rows["reward"][5], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(returns(rows)[5], rows["reward"][5])


@given(seed=seeds, gamma=fractions)
@examples
def test_dummy_reset_rows_hold_nan_and_change_nothing(seed, gamma):
    """A simulator that resets on the step after an end gives a row there that belongs to no episode."""
    rows = rollout(seed, end_rate=0.0)
    rows["truncated"][4] = True
    without = {name: np.delete(rows[name], 5, axis=0) for name in FIELDS}
    padded = {name: np.concatenate([without[name], rows[name][-1:]]) for name in FIELDS}  # the same T, one row later
    rows["valid"][5] = False
    for name in ("reward", "value", "next_value"):
        rows[name][5] = np.nan
    for estimate in (advantages, returns):
        full = estimate(rows, gamma)
        assert np.isfinite(np.delete(full, 5, axis=0)).all()
        np.testing.assert_array_equal(full[:5], estimate(padded, gamma)[:5])
    np.testing.assert_array_equal(advantages(rows, gamma)[5], 0)


def test_scaling_rewards_and_values_scales_advantages():
    rows = rollout(1)
    scaled = {name: rows[name] * 8 if name in FIELDS[:3] else rows[name] for name in FIELDS}
    np.testing.assert_array_equal(advantages(scaled), 8 * advantages(rows))


def test_permuting_environments_permutes_advantages():
    rows = rollout(2)
    order = [2, 0, 1]
    permuted = {name: rows[name][:, order] for name in FIELDS}
    np.testing.assert_array_equal(advantages(permuted), advantages(rows)[:, order])


def test_arithmetic_by_hand():
    """γ = ½, λ = ½, three rows of one episode that goes on: δ = r + V(s′)/2 − V(s) = (1, 3.5, 1)."""
    rows = [[1.0, 4.0, 2.0], [1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]
    flags = jnp.zeros((3, 1), bool)
    reward, value, next_value = (jnp.array(row)[:, None] for row in rows)
    estimate = gae(reward, value, next_value, flags, flags, ~flags, gamma=0.5, gae_lambda=0.5)
    np.testing.assert_allclose(estimate[:, 0], [1 + 3.5 / 4 + 1 / 16, 3.5 + 1 / 4, 1])
