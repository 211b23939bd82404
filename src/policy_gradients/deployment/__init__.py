"""Policies outside training: the bundle that carries one, and the runtime that acts with NumPy alone."""

from policy_gradients.deployment.bundle import Bundle, read_bundle, write_bundle
from policy_gradients.deployment.numpy_policy import NumpyPolicy, load_policy

__all__ = ["Bundle", "NumpyPolicy", "load_policy", "read_bundle", "write_bundle"]
