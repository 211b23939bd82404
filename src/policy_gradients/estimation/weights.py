"""V-MPO's E-step: which rows are learnt, and how much each (Song et al., arXiv 1909.12238, §3.1)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from policy_gradients.types import Metrics


def best_half(advantage: Float[Array, " B"], valid: Bool[Array, " B"]) -> Bool[Array, " B"]:
    """Marks the k = ⌊½ Σw⌋ valid rows with the largest advantage: exactly k of them, whatever the ties."""
    order = jnp.argsort(jnp.where(valid, -advantage, jnp.inf))
    rank = jnp.zeros(order.shape, jnp.int32).at[order].set(jnp.arange(order.size, dtype=jnp.int32))
    return rank < jnp.sum(valid, dtype=jnp.int32) // 2


def exponential_weights(
    eta: Float[Array, ""], advantage: Float[Array, " B"], selected: Bool[Array, " B"]
) -> tuple[Float[Array, " B"], Float[Array, ""]]:
    """ψ, the softmax of Â/η over the selected rows D̃ (0 elsewhere), and log mean_D̃ exp(Â/η).

    With nothing selected both are 0.

    Args:
        eta: η > 0, the temperature, in units of the advantage.
        advantage: Â.
        selected: The rows of D̃.
    """
    some = jnp.any(selected)
    scaled = jnp.where(selected, advantage / eta, jnp.where(some, -jnp.inf, 0.0))
    total = jax.nn.logsumexp(scaled)
    weight = jnp.where(selected, jnp.exp(scaled - total), 0.0)
    count = jnp.maximum(jnp.sum(selected, dtype=jnp.float32), 1.0)
    return weight, jnp.where(some, total - jnp.log(count), 0.0)


def temperature_loss(
    eta: Float[Array, ""], advantage: Float[Array, " B"], selected: Bool[Array, " B"], eps_eta: float | Float[Array, ""]
) -> Float[Array, ""]:
    """L_η = η ε_η + η log mean_D̃ exp(Â/η), over the selected rows only.

    ∂L_η/∂η = ε_η − KL(ψ ‖ uniform on D̃): η settles where the weights are ε_η nats from uniform.
    """
    return eta * (eps_eta + exponential_weights(eta, advantage, selected)[1])


def weight_metrics(weight: Float[Array, " B"], selected: Bool[Array, " B"], valid: Bool[Array, " B"]) -> Metrics:
    """KL(ψ ‖ uniform on D̃) in nats, the largest ψ, and the share of valid rows that are in D̃.

    D̃ is `selected`, not where ψ > 0: at a low temperature most weights are too small for a float32.
    """
    count = jnp.sum(selected, dtype=jnp.float32)
    terms = jnp.where(weight > 0.0, weight * jnp.log(jnp.where(weight > 0.0, weight, 1.0) * count), 0.0)
    return {
        "train/weight_kl": jnp.sum(terms),
        "train/weight_max": jnp.max(weight),
        "train/selected_fraction": count / jnp.sum(valid, dtype=jnp.float32),
    }
