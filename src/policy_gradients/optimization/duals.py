"""Dual variables, kept positive: what V-MPO's constraints cost."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FLOOR = 1e-8
"""Least value of a dual variable (arXiv 1909.12238)."""


class Duals(NamedTuple):
    """V-MPO's dual variables, before `positive`."""

    eta: Float[Array, ""]  # of the weights' distance from uniform: their temperature
    alpha: Float[Array, " n"]  # of the policy's KL: by mean and by standard deviation, or one for discrete actions


def positive(raw: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """softplus(x) + 1e-8: no gradient step makes it 0 or negative, and it never grows faster than x does."""
    return jax.nn.softplus(raw) + FLOOR


def raw_of(value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The x for which `positive(x)` is (but for the floor) the value."""
    return value + jnp.log(-jnp.expm1(-value))
