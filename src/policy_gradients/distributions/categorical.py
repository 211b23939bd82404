"""The categorical distribution, for discrete actions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


class Categorical(NamedTuple):
    """Categorical over K actions 0 … K − 1, by unnormalised log-probabilities."""

    logits: Float[Array, "*batch K"]

    @property
    def log_probs(self) -> Float[Array, "*batch K"]:
        """log p_k, from log-softmax: log(softmax) would be −∞ for improbable actions."""
        return jax.nn.log_softmax(self.logits, axis=-1)

    def sample(self, key: PRNGKeyArray) -> Int[Array, "*batch"]:
        """k ~ p, int32."""
        return jax.random.categorical(key, self.logits, axis=-1).astype(jnp.int32)

    def log_prob(self, action: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
        """log p_a, nats."""
        return jnp.take_along_axis(self.log_probs, action[..., None], axis=-1)[..., 0]

    def entropy(self) -> Float[Array, "*batch"]:
        """H = −Σ_k p_k log p_k, nats; an action whose logit is −∞ adds nothing."""
        return _expectation(self.log_probs, -self.log_probs)

    def kl(self, other: "Categorical") -> Float[Array, "*batch"]:
        """KL(self ‖ other) = Σ_k p_k (log p_k − log q_k), nats."""
        return _expectation(self.log_probs, self.log_probs - other.log_probs)

    def kl_parts(self, other: "Categorical") -> dict[str, Float[Array, "*batch"]]:
        """`kl`, the only part that there is."""
        return {"kl": self.kl(other)}

    def mode(self) -> Int[Array, "*batch"]:
        """The most probable action, int32; the lowest index among equals."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)


def _expectation(log_p: Float[Array, "*batch K"], values: Float[Array, "*batch K"]) -> Float[Array, "*batch"]:
    possible = log_p > -jnp.inf
    return jnp.sum(jnp.where(possible, jnp.exp(log_p) * jnp.where(possible, values, 0.0), 0.0), axis=-1)
