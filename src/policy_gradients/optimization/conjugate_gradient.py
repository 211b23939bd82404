"""The conjugate-gradient method, for systems that are known only by their products with a vector."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Solution(NamedTuple):
    """An approximate solution of H x = b."""

    x: Float[Array, " P"]
    residual: Float[Array, ""]  # ‖b − H x‖ / ‖b‖, as the recursion has it; 0 where b = 0
    iterations: Int[Array, ""]


def conjugate_gradient(
    product: Callable[[Float[Array, " P"]], Float[Array, " P"]],
    b: Float[Array, " P"],
    iterations: int,
    tolerance: float = 1e-10,
) -> Solution:
    """Solves H x = b for a symmetric positive definite H, from x = 0.

        α = r·r / p·Hp,  x ← x + α p,  r ← r − α Hp,  p ← r + (r′·r′ / r·r) p

    Args:
        product: v ↦ H v, linear.
        b: The right-hand side.
        iterations: At most so many products.
        tolerance: Stops at ‖r‖² below this, as `product` has units; a direction of no or negative curvature stops too.

    References:
        Hestenes and Stiefel (1952); in TRPO: Schulman et al., arXiv 1502.05477, appendix C.
    """

    def unfinished(at: tuple) -> Array:
        index, _, _, _, rr, curved = at
        return (index < iterations) & (rr > tolerance) & curved

    def step(at: tuple) -> tuple:
        index, x, r, p, rr, _ = at
        hp = product(p)
        curvature = jnp.vdot(p, hp)
        curved = curvature > 0.0  # False for NaN as well
        alpha = jnp.where(curved, rr / jnp.where(curved, curvature, 1.0), 0.0)
        x, r = x + alpha * p, r - alpha * hp
        after = jnp.vdot(r, r)
        return index + 1, x, r, r + after / rr * p, after, curved

    rr = jnp.vdot(b, b)
    start = (jnp.int32(0), jnp.zeros_like(b), b, b, rr, jnp.array(True))
    count, x, _, _, left, _ = jax.lax.while_loop(unfinished, step, start)
    return Solution(x, jnp.sqrt(left / jnp.where(rr > 0.0, rr, 1.0)), count)
