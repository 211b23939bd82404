"""Action distributions; each is a NamedTuple of parameters with sample, log_prob, entropy, kl and mode."""

from policy_gradients.distributions.categorical import Categorical
from policy_gradients.distributions.normal import Normal
from policy_gradients.distributions.tanh_normal import TanhNormal

__all__ = ["Categorical", "Normal", "TanhNormal"]
