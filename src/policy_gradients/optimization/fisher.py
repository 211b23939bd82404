"""Products with the Fisher information matrix of a policy, without the matrix."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float


def fisher_vector_product(
    policy: Callable[[Float[Array, " P"]], Any],
    divergence: Callable[[Any], Float[Array, ""]],
    params: Float[Array, " P"],
    damping: float | Float[Array, ""] = 0.0,
) -> Callable[[Float[Array, " P"]], Float[Array, " P"]]:
    """v ↦ Jᵀ M J v + ζ v, with J the Jacobian of the distributions' own parameters and M the KL's Hessian in these.

    Equals the Hessian of ⟨KL(π_old ‖ π_θ)⟩ at θ_old, where the KL has no slope, and costs a third: the network is run
    once, and a product is one linear pass forward and one back. At any other θ it is not what TRPO asks for.

    Args:
        policy: θ ↦ π_θ(·|s), a pytree of arrays.
        divergence: π ↦ ⟨KL(π_old(·|s) ‖ π(·|s))⟩, nats, with π_old fixed.
        params: θ = θ_old.
        damping: ζ ≥ 0.

    References:
        Schulman et al., Trust Region Policy Optimization, arXiv 1502.05477, appendix C.
    """
    at, forward = jax.linearize(policy, params)
    backward = jax.linear_transpose(forward, params)

    def product(v: Float[Array, " P"]) -> Float[Array, " P"]:
        curved = jax.jvp(jax.grad(divergence), (at,), (forward(v),))[1]
        return backward(curved)[0] + damping * v

    return product
