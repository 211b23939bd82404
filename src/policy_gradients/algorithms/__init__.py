"""The algorithms: `(init, update)` pairs, one file each."""

from policy_gradients.algorithms.a2c import A2CConfig, a2c
from policy_gradients.algorithms.ppo import PPOConfig, ppo
from policy_gradients.algorithms.reinforce import REINFORCEConfig, reinforce
from policy_gradients.algorithms.trpo import TRPOConfig, trpo
from policy_gradients.algorithms.vmpo import VMPOConfig, vmpo

__all__ = [
    "A2CConfig",
    "PPOConfig",
    "REINFORCEConfig",
    "TRPOConfig",
    "VMPOConfig",
    "a2c",
    "ppo",
    "reinforce",
    "trpo",
    "vmpo",
]
