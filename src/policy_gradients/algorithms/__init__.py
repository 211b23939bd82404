"""The algorithms, each a pair `(init, update)` in a file of its own."""

from policy_gradients.algorithms.ppo import PPOConfig, ppo

__all__ = ["PPOConfig", "ppo"]
