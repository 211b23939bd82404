"""Simulators written in JAX as environments."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from policy_gradients.environments.base import Environment, EnvironmentSpec, EnvState
from policy_gradients.errors import UserError


def device_environment(spec: EnvironmentSpec, reset: Callable, step: Callable) -> Environment:
    """The `Environment` of a simulator written in JAX: its whole state is the pytree that `step` carries."""

    def snapshot(state: EnvState) -> dict[str, np.ndarray]:
        return {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(key_data(state)))}

    def restore(arrays: Mapping[str, np.ndarray], state: EnvState) -> EnvState:
        _check_fits(spec, arrays, state)
        leaves = jax.tree.leaves(state)
        restored = [
            jax.random.wrap_key_data(jnp.asarray(arrays[str(i)]))
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else jnp.asarray(arrays[str(i)], leaf.dtype)
            for i, leaf in enumerate(leaves)
        ]
        return jax.tree.unflatten(jax.tree.structure(state), restored)

    return Environment(spec, reset, step, snapshot, restore)


def _check_fits(spec: EnvironmentSpec, arrays: Mapping[str, np.ndarray], state: EnvState) -> None:
    """Refuses the state of another environment, before a scan fails on it obscurely."""
    saved = [array.shape for _, array in sorted(arrays.items(), key=lambda item: int(item[0]))]
    wanted = [leaf.shape for leaf in jax.tree.leaves(key_data(state))]
    if saved != wanted:
        raise UserError(
            f"{spec.id}: the saved state is of another environment, or of another version of it: its arrays have the "
            f"shapes {saved}, expected {wanted}. Go on with the environment that it was saved from."
        )


def key_data(tree: Any) -> Any:
    """The pytree with typed keys as the plain words that they are made of, which NumPy and files can hold."""
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, tree)
