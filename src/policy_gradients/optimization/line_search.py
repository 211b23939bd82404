"""Backtracking: shorten a step until what it must fulfil holds."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Accepted(NamedTuple):
    """Where a line search ended."""

    point: Float[Array, " P"]  # the start itself, bit for bit, where no step was accepted
    fraction: Float[Array, ""]  # κ^j of the accepted step; 0 where none was
    success: Bool[Array, ""]


def backtrack(
    accepts: Callable[[Float[Array, " P"]], Bool[Array, ""]],
    start: Float[Array, " P"],
    step: Float[Array, " P"],
    shrink: float | Float[Array, ""],
    trials: int,
) -> Accepted:
    """The first of start + κ^j · step, j = 0 … J − 1, that is accepted; else the start.

    Args:
        accepts: Whether a point fulfils the conditions; False for a point with numbers that are not finite.
        start: θ_old.
        step: The full step.
        shrink: κ ∈ (0, 1).
        trials: J ≥ 1.
    """

    def searching(at: tuple[Any, ...]) -> Array:
        return (at[0] < trials) & ~at[2]

    def trial(at: tuple[Any, ...]) -> tuple[Any, ...]:
        index, fraction, _ = at
        fraction = jnp.where(index == 0, 1.0, fraction * shrink)
        return index + 1, fraction, accepts(start + fraction * step)

    begin = (jnp.int32(0), jnp.zeros((), step.dtype), jnp.array(False))
    _, fraction, success = jax.lax.while_loop(searching, trial, begin)
    fraction = jnp.where(success, fraction, 0.0)
    return Accepted(jnp.where(success, start + fraction * step, start), fraction, success)
