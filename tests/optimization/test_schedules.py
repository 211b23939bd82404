"""Learning rates, in the unit that they are counted in."""

import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.estimation.normalization import Count
from policy_gradients.optimization.schedules import KL_ADAPTIVE_RANGE, current_rate, kl_adaptive, linear
from policy_gradients.types import LearnerState


@pytest.mark.parametrize(("step", "share"), [(0, 1.0), (250, 0.75), (999, 0.001), (1000, 0.0), (1500, 0.0)])
def test_the_linear_schedule_falls_to_zero_with_environment_steps(step, share):
    np.testing.assert_allclose(linear(3e-4, jnp.float32(step), 1000), 3e-4 * share, rtol=1e-4)


def test_a_run_may_be_longer_than_32_bits_count():
    np.testing.assert_allclose(linear(3e-4, jnp.float32(1e9), 4_000_000_000), 3e-4 * 0.75, rtol=1e-6)


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(0.0, 1.5), (0.0039, 1.5), (0.0041, 1.0), (0.008, 1.0), (0.0159, 1.0), (0.0161, 1 / 1.5), (np.inf, 1 / 1.5)],
)
def test_the_adaptive_rate_moves_against_the_divergence(kl, factor):
    np.testing.assert_allclose(kl_adaptive(jnp.float32(1e-3), jnp.float32(kl), 0.008), 1e-3 * factor, rtol=1e-6)


def test_the_adaptive_rate_stays_within_its_bounds():
    low, high = KL_ADAPTIVE_RANGE
    np.testing.assert_allclose(kl_adaptive(jnp.float32(high), jnp.float32(0), 0.01), high)
    np.testing.assert_allclose(kl_adaptive(jnp.float32(low), jnp.float32(9), 0.01), low)


def test_a_divergence_that_is_no_number_leaves_the_rate_as_it_is():
    np.testing.assert_allclose(kl_adaptive(jnp.float32(1e-3), jnp.float32(np.nan), 0.01), 1e-3)


def state(steps, rate):
    return LearnerState(None, None, None, Count(jnp.int32(0), jnp.int32(steps)), jnp.float32(rate), jnp.int32(12345))


def test_an_update_starts_on_the_line_whatever_the_number_of_gradient_steps():
    np.testing.assert_allclose(current_rate("linear", 1e-3, state(600, 0.5), 1000), 4e-4, rtol=1e-5)


@pytest.mark.parametrize("schedule", ["constant", "kl_adaptive"])
def test_other_schedules_start_where_the_last_update_ended(schedule):
    np.testing.assert_allclose(current_rate(schedule, 1e-3, state(600, 7e-4), 1000), 7e-4)
