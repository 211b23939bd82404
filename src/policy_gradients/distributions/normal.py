"""The diagonal Gaussian, for actions in ℝ^A."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

_LOG_2PI = math.log(2.0 * math.pi)


class Normal(NamedTuple):
    """Diagonal Gaussian with mean μ and standard deviation σ = exp(log_std), independent over A action coordinates.

    Every quantity in nats is a **sum** over action coordinates, never a mean.
    """

    mean: Float[Array, "*batch A"]
    log_std: Float[Array, "*batch A"]

    def sample(self, key: PRNGKeyArray) -> Float[Array, "*batch A"]:
        """u = μ + σ ξ with ξ ~ N(0, 1); differentiable in μ and σ."""
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def log_prob(self, action: Float[Array, "*batch A"]) -> Float[Array, "*batch"]:
        """log N(u) = −½ Σ ((u − μ)/σ)² − Σ log σ − (A/2) log 2π, nats."""
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return jnp.sum(-0.5 * (z * z + _LOG_2PI) - self.log_std, axis=-1)

    def entropy(self) -> Float[Array, "*batch"]:
        """H = Σ log σ + (A/2)(1 + log 2π), nats."""
        return jnp.sum(self.log_std + 0.5 * (1.0 + _LOG_2PI), axis=-1)

    def kl(self, other: "Normal") -> Float[Array, "*batch"]:
        """KL(self ‖ other) = Σ [log(σ_q/σ_p) + (σ_p² + (μ_p − μ_q)²)/(2σ_q²) − ½], nats."""
        ratio = jnp.exp(2.0 * (self.log_std - other.log_std))
        shift = (self.mean - other.mean) * jnp.exp(-other.log_std)
        return jnp.sum(other.log_std - self.log_std + 0.5 * (ratio + shift * shift - 1.0), axis=-1)

    def kl_parts(self, other: "Normal") -> dict[str, Float[Array, "*batch"]]:
        """KL(self ‖ other) by cause, nats: `kl_mean` were only μ another, `kl_std` were only σ.

            D_μ = ½ Σ (μ_q − μ_p)²/σ_p²,   D_Σ = Σ [log(σ_q/σ_p) + σ_p²/(2σ_q²) − ½]

        The mean's part is measured with σ_p, so that a bound on one does not move with the other; their sum is
        therefore not the KL (Abdolmaleki et al., arXiv 1812.02256).
        """
        return {
            "kl_mean": self.kl(Normal(other.mean, self.log_std)),
            "kl_std": self.kl(Normal(self.mean, other.log_std)),
        }

    def mode(self) -> Float[Array, "*batch A"]:
        """μ."""
        return self.mean
