"""V-MPO's E-step against its definition: which half, how much of each row, and the temperature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.estimation.weights import best_half, exponential_weights, temperature_loss, weight_metrics

B, ETA, EPS = 11, 0.7, 0.1


def rows(seed=0, size=B):
    """Advantages and which of them are valid."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=size).astype(np.float32), rng.random(size) > 0.25


def chosen(advantage, valid):
    return np.asarray(best_half(jnp.asarray(advantage), jnp.asarray(valid)))


def e_step(eta, advantage, selected, eps=EPS):
    """ψ and L_η."""
    advantage, selected = jnp.asarray(advantage, jnp.float32), jnp.asarray(selected)
    weight = exponential_weights(jnp.float32(eta), advantage, selected)[0]
    return np.asarray(weight), temperature_loss(jnp.float32(eta), advantage, selected, eps)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [1, 2, 7, 12])
def test_the_better_half_of_the_valid_rows_is_chosen(seed, size):
    """Exactly ⌊½ Σw⌋ rows, none worse than any that was left out."""
    advantage, valid = rows(seed, size)
    selected = chosen(advantage, valid)
    assert selected.sum() == valid.sum() // 2
    assert not (selected & ~valid).any()
    left = valid & ~selected
    if selected.any():
        assert advantage[selected].min() >= advantage[left].max()


@pytest.mark.parametrize("valid", [np.ones(6, bool), np.array([1, 0, 1, 1, 0, 1], bool)])
def test_ties_do_not_enlarge_the_half(valid):
    """Trap 25: a rule of "at least the median" would take every row of a constant."""
    assert chosen(np.zeros(6, np.float32), valid).sum() == valid.sum() // 2


def test_numbers_in_rows_that_are_not_valid_do_not_count():
    advantage, valid = rows()
    for nonsense in (np.nan, np.inf, -np.inf, 1e9):
        np.testing.assert_array_equal(chosen(np.where(valid, advantage, nonsense), valid), chosen(advantage, valid))


def test_weights_and_loss_are_the_papers_sums():
    advantage, valid = rows()
    selected = chosen(advantage, valid)
    weight, loss = e_step(ETA, advantage, selected)
    powers = np.exp(advantage[selected].astype(np.float64) / ETA)
    np.testing.assert_allclose(weight[selected], powers / powers.sum(), rtol=1e-5)
    np.testing.assert_array_equal(weight[~selected], 0)
    np.testing.assert_allclose(loss, ETA * EPS + ETA * np.log(powers.mean()), rtol=1e-5)


def test_a_change_in_the_worse_half_changes_neither_weights_nor_loss():
    """Trap 25: a log-sum-exp over all rows would see it."""
    advantage, valid = rows()
    selected = chosen(advantage, valid)
    before = e_step(ETA, advantage, selected)
    lower = np.where(valid & ~selected, advantage - 0.5, advantage).astype(np.float32)
    again = chosen(lower, valid)
    np.testing.assert_array_equal(again, selected)
    after = e_step(ETA, lower, again)
    np.testing.assert_array_equal(after[0], before[0])
    assert after[1] == before[1]


@pytest.mark.parametrize("eta", [0.05, 0.3, 1.0, 8.0])
def test_the_gradient_of_the_temperature_is_what_is_left_of_its_bound(eta):
    """∂L_η/∂η = ε_η − KL(ψ ‖ uniform on D̃)."""
    advantage, valid = rows(size=40)
    selected = chosen(advantage, valid)
    slope = jax.grad(temperature_loss)(jnp.float32(eta), jnp.asarray(advantage), jnp.asarray(selected), EPS)
    weight = e_step(eta, advantage, selected)[0][selected].astype(np.float64)
    np.testing.assert_allclose(slope, EPS - np.sum(weight * np.log(weight * len(weight))), rtol=1e-3, atol=1e-5)


def test_at_the_optimum_the_weights_are_as_far_from_uniform_as_allowed():
    """Trap 25: KL(ψ ‖ uniform) = ε_η where L_η is least, found by bisection of its slope."""
    advantage, valid = rows(size=40)
    selected = chosen(advantage, valid)
    slope = jax.jit(jax.grad(lambda eta: temperature_loss(eta, jnp.asarray(advantage), jnp.asarray(selected), EPS)))
    low, high = 1e-2, 1e2
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(jnp.float32(middle)) < 0 else (low, middle)
    weight, _ = e_step(low, advantage, selected)
    metrics = weight_metrics(jnp.asarray(weight), jnp.asarray(selected), jnp.asarray(valid))
    np.testing.assert_allclose(metrics["train/weight_kl"], EPS, rtol=1e-3)


def test_the_loss_carries_no_gradient_where_nothing_is_chosen_and_is_finite():
    """One valid row, or none: half of it is nothing."""
    advantage = jnp.array([jnp.nan, 2.0])
    none = best_half(advantage, jnp.array([False, True]))
    assert not none.any()
    weight, log_mean = exponential_weights(jnp.float32(ETA), jnp.where(none, advantage, 0.0), none)
    np.testing.assert_array_equal(weight, 0)
    assert log_mean == 0
    slope = jax.grad(temperature_loss)(jnp.float32(ETA), jnp.zeros(2), none, EPS)
    np.testing.assert_allclose(slope, EPS, rtol=1e-6)


@pytest.mark.parametrize("eta", [1e-8, 1e-3, 1e6])
def test_every_temperature_leaves_weights_finite_and_summing_to_one(eta):
    advantage, valid = rows()
    weight, loss = e_step(eta, advantage * 100, chosen(advantage, valid))
    np.testing.assert_allclose(weight.sum(), 1, rtol=1e-5)
    assert np.isfinite(loss)


def test_the_metrics_are_those_of_the_weights():
    weight = jnp.array([0.5, 0.25, 0.25, 0.0, 0.0, 0.0, 0.0])
    valid = jnp.array([1, 1, 1, 1, 1, 1, 0], bool)
    metrics = weight_metrics(weight, weight > 0, valid)
    expected = np.log(3) + 0.5 * np.log(0.5) + 0.5 * np.log(0.25)
    np.testing.assert_allclose(metrics["train/weight_kl"], expected, rtol=1e-5)
    assert metrics["train/weight_max"] == 0.5
    assert metrics["train/selected_fraction"] == 0.5


def test_a_weight_that_is_too_small_for_a_number_still_counts_as_chosen():
    """At a low temperature one row has all the weight: log |D̃| from uniform, with half of the rows selected."""
    advantage = jnp.array([200.0, 1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 0.0])
    selected = best_half(advantage, jnp.ones(8, bool))
    weight, _ = exponential_weights(jnp.float32(1.0), advantage, selected)
    metrics = weight_metrics(weight, selected, jnp.ones(8, bool))
    assert (np.asarray(weight) > 0).sum() < 4, "underflow"
    np.testing.assert_allclose(metrics["train/weight_kl"], np.log(4), rtol=1e-5)
    assert metrics["train/selected_fraction"] == 0.5
