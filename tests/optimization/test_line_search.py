"""Backtracking takes the first point that is accepted, or none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy_gradients.optimization.line_search import backtrack

START, STEP, SHRINK = jnp.array([1.0, -2.0]), jnp.array([8.0, 4.0]), 0.5


def search(accepts, trials=5):
    return jax.jit(lambda start, step: backtrack(accepts, start, step, SHRINK, trials))(START, STEP)


@pytest.mark.parametrize("j", range(5))
def test_the_first_point_that_fits_is_taken(j):
    """A bound on the first coordinate that only the trials from number j on fulfil."""
    bound = 1.0 + 8.0 * SHRINK**j + 1e-3
    found = search(lambda theta: theta[0] <= bound)
    assert found.success
    assert found.fraction == SHRINK**j
    np.testing.assert_allclose(found.point, START + SHRINK**j * STEP, rtol=1e-6)


def test_the_whole_step_comes_first_and_the_trials_are_the_powers():
    tried = []

    def accepts(theta):
        jax.debug.callback(lambda t: tried.append(np.array(t)), theta)
        return jnp.array(False)

    jax.block_until_ready(search(accepts, trials=4))
    np.testing.assert_allclose(tried, [START + SHRINK**j * STEP for j in range(4)], rtol=1e-6)


def test_where_nothing_fits_the_start_is_kept_bit_for_bit():
    """Trap 27, also where the step is not a number."""
    never = lambda theta: jnp.array(False)  # noqa: E731
    for step in (STEP, jnp.full(2, jnp.nan), jnp.full(2, jnp.inf)):
        found = backtrack(never, START, step, SHRINK, 3)
        np.testing.assert_array_equal(found.point, START)
        assert not found.success
        assert found.fraction == 0


def test_a_fit_beyond_the_last_trial_is_not_found():
    bound = 1.0 + 8.0 * SHRINK**3 + 1e-3
    assert search(lambda theta: theta[0] <= bound, trials=4).success
    assert not search(lambda theta: theta[0] <= bound, trials=3).success
