"""Networks: pairs of `(init, apply)` over nested dicts of arrays."""

from policy_gradients.networks.actor_critic import NetworkConfig, actor_critic

__all__ = ["NetworkConfig", "actor_critic"]
