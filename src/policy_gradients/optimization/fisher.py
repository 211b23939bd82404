"""Products with the Fisher information matrix of a policy, without the matrix."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float


def fisher_vector_product(
    kl: Callable[[Float[Array, " P"]], Float[Array, ""]],
    params: Float[Array, " P"],
    damping: float | Float[Array, ""] = 0.0,
) -> Callable[[Float[Array, " P"]], Float[Array, " P"]]:
    """v ↦ J[∇ KL](θ) v + ζ v: the Jacobian of the mean KL's gradient, times v, forward over reverse.

    Equals (F + ζ I) v only at the θ that `kl` measures from: elsewhere the Hessian of the KL is not the Fisher matrix,
    which this function cannot know.

    Args:
        kl: θ ↦ ⟨KL(π_old(·|s) ‖ π_θ(·|s))⟩, nats, with π_old fixed.
        params: θ = θ_old.
        damping: ζ ≥ 0.

    References:
        Schulman et al., Trust Region Policy Optimization, arXiv 1502.05477, appendix C.
    """
    gradient = jax.grad(kl)

    def product(v: Float[Array, " P"]) -> Float[Array, " P"]:
        return jax.jvp(gradient, (params,), (v,))[1] + damping * v

    return product
