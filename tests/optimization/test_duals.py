"""Dual variables stay positive whatever the gradient does, and follow it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from policy_gradients.optimization.duals import FLOOR, positive, raw_of


@pytest.mark.parametrize("raw", [-1e4, -100.0, -1.0, 0.0, 1.0, 1e4])
def test_every_number_stands_for_a_positive_one(raw):
    assert positive(jnp.float32(raw)) >= FLOOR > 0
    assert jnp.isfinite(positive(jnp.float32(raw)))


@pytest.mark.parametrize("value", [1e-3, 0.1, 1.0, 10.0, 500.0])
def test_the_inverse_gives_the_start_that_was_asked_for(value):
    np.testing.assert_allclose(positive(raw_of(jnp.float32(value))), value, rtol=2e-5)


def test_a_small_change_of_the_variable_changes_the_dual_by_no_more():
    """The slope of softplus lies in (0, 1): duals cannot explode where the variable does not."""
    slopes = jax.vmap(jax.grad(positive))(jnp.linspace(-20.0, 20.0, 101))
    assert ((slopes > 0) & (slopes <= 1)).all()


@partial(jax.jit, static_argnums=0)
def ascend(kl, eps=0.01, steps=10_000):
    """α over 10⁴ of Adam's steps on L_α = α (ε − KL)."""
    optimizer = optax.adam(1e-2)
    loss = lambda raw: positive(raw) * (eps - kl)  # noqa: E731

    def step(carry, _):
        raw, state = carry
        update, state = optimizer.update(jax.grad(loss)(raw), state)
        raw = optax.apply_updates(raw, update)
        return (raw, state), positive(raw)

    raw = raw_of(jnp.float32(1.0))
    return jax.lax.scan(step, (raw, optimizer.init(raw)), None, length=steps)[1]


@pytest.mark.parametrize(("kl", "direction"), [(0.0, -1), (1.0, 1)])
def test_a_dual_moves_against_the_constraint_and_stays_positive_and_finite(kl, direction):
    """Trap 26: a KL that is always 0, and one that is always 1."""
    alpha = np.asarray(ascend(kl))
    assert np.isfinite(alpha).all()
    assert (alpha > 0).all()
    assert (direction * np.diff(alpha) >= 0).all(), "monotone"
    if direction < 0:
        assert FLOOR <= alpha[-1] < 1e-4
    else:
        assert 50 < alpha[-1] < 200, "10⁴ steps of about 0.01: linear growth, not exponential"


def test_a_dual_stays_where_its_constraint_holds_exactly():
    np.testing.assert_allclose(ascend(0.01), 1.0, rtol=1e-6)
