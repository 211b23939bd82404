"""Policies as C99: the generator, and a compiler's product called from Python."""

from policy_gradients.deployment.c99.build import CPolicy, compile_c, load_c_policy, write_c
from policy_gradients.deployment.c99.source import c_source

__all__ = ["CPolicy", "c_source", "compile_c", "load_c_policy", "write_c"]
