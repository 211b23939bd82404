"""Several devices: environments are spread over them, and the learner is the same on each.

The program stays one: its arrays carry the layout (`jax.sharding`), and the compiler finds what has to be sent. A
rollout sends nothing. An update gathers the batch once, to shuffle it over all devices, and sums each gradient over
them; every mean and statistic is over all environments, as on one device.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from policy_gradients import backend, processes
from policy_gradients.environments.base import EnvironmentSpec
from policy_gradients.errors import UserError
from policy_gradients.training.rollout import Carry
from policy_gradients.types import ENV_AXIS, Key, LearnerState, Metrics


def make_mesh(devices: int | Literal["all"], num_envs: int) -> Mesh | None:
    """So many of JAX's devices, along one axis; None for a single one.

    Args:
        devices: How many; "all" or −1 for all that JAX sees. Several processes train with all, also where 1 is said.
        num_envs: Environments to share out.

    Raises:
        UserError: There are fewer devices, or other than all of several processes, or the environments cannot be shared
            out evenly.
    """
    found = backend.devices()
    every = devices in ("all", -1) or (devices == 1 and processes.count() > 1)
    count = len(found) if every else int(devices)
    if processes.count() > 1 and count < len(found):
        raise UserError(
            f"devices: {processes.count()} processes train with all of their {len(found)} devices, but {count} were "
            "asked for; leave --devices out."
        )
    if count > len(found):
        raise UserError(
            f"devices: {count} were asked for, but JAX sees {len(found)} ({found[0].device_kind}); give --devices "
            f"{len(found)}{' or fewer' if len(found) > 1 else ''}."
        )
    if num_envs % count:
        near = max(1, round(num_envs / count)) * count
        raise UserError(
            f"devices: {num_envs} environments cannot be shared out evenly among {count} devices; give a num_envs that "
            f"is a multiple of {count}, such as {near}."
        )
    if count == 1:
        return None
    return Mesh(np.array(found[:count]), (ENV_AXIS,), axis_types=(AxisType.Auto,))


def check_spreads(spec: EnvironmentSpec, mesh: Mesh | None) -> None:
    """Refuses several devices of a process beside a simulator that is not inside the program.

    Raises:
        UserError: With the engines that can.
    """
    if mesh is not None and spec.on_host and mesh.size > processes.count():
        raise UserError(
            f"devices: {spec.id} is stepped on the host by the engine {spec.engine}, which feeds one device only; give "
            "--devices 1, a process for each device, or use an environment written in JAX or --engine warp."
        )


def layout(mesh: Mesh, learner: LearnerState, carry: Carry) -> tuple[LearnerState, Carry]:
    """Where each array lies: environments spread along their axis, all else whole on every device.

    An array of an environment's state is taken to be spread where its first axis counts environments, or devices. A
    wrong guess would cost time, never another result.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    spread: Any = NamedSharding(mesh, PartitionSpec(ENV_AXIS))
    spread_sizes = {carry.obs.shape[0], mesh.size}
    of_env = jax.tree.map(lambda x: spread if x.ndim and x.shape[0] in spread_sizes else whole, carry.env_state)
    episodes = jax.tree.map(lambda _: whole, carry.episodes)._replace(running_return=spread, running_length=spread)
    places = jax.tree.map(lambda _: whole, learner)
    if learner.statistics.reward is not None:
        reward = places.statistics.reward._replace(running_return=spread)
        places = places._replace(statistics=places.statistics._replace(reward=reward))
    return places, Carry(of_env, spread, episodes)


def place(mesh: Mesh | None, learner: LearnerState, carry: Carry) -> tuple[LearnerState, Carry]:
    """The same arrays on the devices of the mesh."""
    if mesh is None:
        return learner, carry
    return jax.jit(lambda *state: state, out_shardings=layout(mesh, learner, carry))(learner, carry)


def everywhere(mesh: Mesh | None, tree: Any) -> Any:
    """Arrays of a program as ones that every device of the mesh has whole."""
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


def on_one_device(tree: Any) -> Any:
    """Arrays of several devices whole on one of this process; others as they are. All processes must call it."""

    def whole(x: Any) -> Any:
        if not isinstance(x, jax.Array) or len(x.sharding.device_set) == 1:
            return x
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(whole(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        if not x.is_fully_replicated:
            sharding: Any = x.sharding
            x = jax.jit(lambda x: x, out_shardings=NamedSharding(sharding.mesh, PartitionSpec()))(x)
        return jnp.asarray(np.asarray(x.addressable_data(0)))

    with processes.noticing_loss():
        return jax.tree.map(whole, tree)


def over(mesh: Mesh | None, iteration: Callable[..., Any]) -> Callable[..., Any]:
    """The iteration for arrays that `place` has laid out; what it returns lies in the same way."""
    if mesh is None:
        return iteration

    def spread(key: Key, learner: LearnerState, carry: Carry) -> tuple[LearnerState, Carry, Metrics]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            learner, carry, metrics = iteration(key, learner, carry)
        learner, carry = jax.lax.with_sharding_constraint((learner, carry), layout(mesh, learner, carry))
        return learner, carry, everywhere(mesh, metrics)

    return spread
