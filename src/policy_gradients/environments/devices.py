"""A simulator on each of several devices, or in each of several processes, as one `Environment`."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from policy_gradients import processes
from policy_gradients.environments.base import Array, Environment, EnvState, Step
from policy_gradients.environments.device import device_environment
from policy_gradients.types import ENV_AXIS


def over_devices(share: Environment, mesh: Mesh) -> Environment:
    """D batches of n copies, one on each device of a mesh, as one environment of N = D·n copies.

    The compiler can split arrays of its own among devices, but no call into a simulator. So each device runs `reset`
    and `step` of its share by itself, and sends nothing to the others. Share i draws from fold_in(key, i). Copies of
    one share lie next to each other, and every array of the share's state has a leading axis of shares [D, ...].

    Args:
        share: n copies, whose `reset` and `step` run on whichever device calls them. Its `metrics`, `snapshot` and
            `restore` are given up: only the simulator knows what its state's arrays mean for all shares together.
        mesh: The devices, along the axis `ENV_AXIS`.
    """
    spread = PartitionSpec(ENV_AXIS)

    def reset(key: Array) -> tuple[EnvState, Array]:
        state, obs = share.reset(jax.random.fold_in(key, jax.lax.axis_index(ENV_AXIS)))
        return _lead(state), obs

    def step(state: EnvState, action: Array) -> tuple[EnvState, Step]:
        state, out = share.step(jax.tree.map(lambda x: x[0], state), action)
        return _lead(state), out

    def on_each(function: Callable[..., Any], *inputs: PartitionSpec) -> Callable[..., Any]:
        # A foreign call does not say over which axes its results vary, so that is not checked.
        return jax.shard_map(function, mesh=mesh, in_specs=inputs, out_specs=spread, check_vma=False)

    spec = dataclasses.replace(share.spec, num_envs=mesh.size * share.spec.num_envs)
    env = device_environment(spec, on_each(reset, PartitionSpec()), on_each(step, spread, spread))
    return env._replace(close=share.close)


def over_processes(share: Environment, mesh: Mesh) -> Environment:
    """A simulator outside the program in each of several processes as one `Environment`, as `over_devices`.

    Args:
        share: This process's n copies.
        mesh: One device of each process.
    """
    env = over_devices(share, mesh)

    def own(state: EnvState) -> EnvState:
        return jax.tree.map(lambda x: np.asarray(x)[jax.process_index()], state)

    def snapshot(state: EnvState) -> dict[str, np.ndarray]:
        return processes.gather_arrays(share.snapshot(own(state)))

    def restore(arrays: Mapping[str, np.ndarray], state: EnvState) -> EnvState:
        mine = share.restore({name: array[jax.process_index()] for name, array in arrays.items()}, own(state))
        return jax.tree.map(lambda x: jnp.asarray(processes.gather(np.asarray(x))), mine)

    return env._replace(snapshot=snapshot, restore=restore)


def _lead(state: EnvState) -> EnvState:
    return jax.tree.map(lambda x: x[None], state)
