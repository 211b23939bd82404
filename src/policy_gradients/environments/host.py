"""Host simulators inside a compiled program.

`host_environment` turns a `HostSimulator` into an `Environment` whose `reset` and `step` can be traced: they call it
through `host_call`, which copies nothing more than the step's results.

Calls stay in order because each takes and returns the count of steps: a chain of data dependencies, which also is the
environment's whole state on the device. The simulator's own state stays on the host: `snapshot` and `restore` read and
write it.

The count also tells a call that is repeated: XLA for GPUs (2026) may copy a call whose results go into larger arrays,
and make both (openxla/xla#45799). A step from the same count with the same actions is answered as before, not taken
again.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from policy_gradients.environments.base import Array, Environment, EnvironmentFailure, EnvState, HostSimulator, Step
from policy_gradients.environments.host_call import host_call, take_failure
from policy_gradients.errors import UserError


def host_environment(simulator: HostSimulator) -> Environment:
    """The `Environment` of a host simulator; its state on the device is the count of steps since the reset.

    One simulator lives one life: `jax.vmap` over `reset` or `step` is refused with a UserError.
    """
    spec = simulator.spec
    n = spec.num_envs
    shape = lambda *dims, dtype: jax.ShapeDtypeStruct(dims, dtype)  # noqa: E731
    count, flag = shape(dtype=jnp.int32), shape(n, dtype=jnp.bool_)
    obs = shape(n, *spec.obs_space.shape, dtype=spec.obs_space.dtype)
    action = shape(n, *spec.action_space.shape, dtype=spec.action_space.dtype)
    fields = (obs, obs, shape(n, dtype=jnp.float32), flag, flag, flag)  # of a Step

    latest: tuple[int, np.ndarray, tuple] | None = None  # count and actions of the latest step, and what it returned

    def reset_on_host(words: np.ndarray) -> tuple[np.ndarray, ...]:
        nonlocal latest
        latest = None
        observation = simulator.reset(int(words[0]) << 32 | int(words[1]))
        _check(spec.id, "reset", ("obs",), (observation,), (obs,))
        return np.zeros((), np.int32), observation

    def step_on_host(index: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, ...]:
        nonlocal latest
        at = int(index)
        if latest is not None and latest[0] == at and np.array_equal(latest[1], actions):
            return latest[2]
        latest = None
        out = simulator.step(actions)
        _check(spec.id, "step", Step._fields, out, fields)
        results = (index + 1, *out)
        latest = at, actions.copy(), results
        return results

    seed = shape(2, dtype=jnp.uint32)
    reset_call = _unbatched(host_call(reset_on_host, [seed], [count, obs]), spec.id)
    step_call = _unbatched(host_call(step_on_host, [count, action], [count, *fields]), spec.id)

    def reset(key: Array) -> tuple[EnvState, Array]:
        index, observation = reset_call(jax.random.key_data(key).reshape(-1)[:2].astype(jnp.uint32))
        return index, observation

    def step(state: EnvState, actions: Array) -> tuple[EnvState, Step]:
        index, *out = step_call(state, actions.astype(spec.action_space.dtype))
        return index, Step(*out)

    def snapshot(state: EnvState) -> dict[str, np.ndarray]:
        return {"step": np.asarray(state), **simulator.snapshot()}

    def restore(arrays: Mapping[str, np.ndarray], state: EnvState) -> EnvState:
        nonlocal latest
        latest = None
        simulator.restore({name: array for name, array in arrays.items() if name != "step"})
        return jnp.asarray(arrays["step"], jnp.int32)

    return Environment(spec, reset, step, snapshot, restore, simulator.close)


def _check(env_id: str, call: str, names: Sequence[str], values: Any, expected: Sequence[Any]) -> None:
    """Refuses what NumPy would broadcast or cast without a word."""
    if len(values) != len(names):
        raise EnvironmentFailure(f"{env_id}: {call} returned {len(values)} fields, expected {', '.join(names)}.")
    for name, value, wanted in zip(names, values, expected, strict=True):
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
        if shape == wanted.shape and dtype == wanted.dtype:
            continue
        if dtype is None or shape != wanted.shape or not np.can_cast(dtype, wanted.dtype, "same_kind"):
            came = type(value).__name__ if dtype is None else f"{dtype} of shape {shape}"
            raise EnvironmentFailure(
                f"{env_id}: {call} returned {name} as {came}, but its specification says {wanted.dtype} of shape "
                f"{wanted.shape}. Make the two agree."
            )


def _unbatched(call: Callable[..., list[Array]], env_id: str) -> Callable[..., list[Array]]:
    guarded = jax.custom_batching.custom_vmap(call)

    @guarded.def_vmap
    def refuse(axis_size: int, in_batched: Any, *arrays: Array) -> Any:
        raise UserError(
            f"{env_id} is one simulator outside the compiled program and cannot be vmapped {axis_size} times; give "
            "num_envs for more copies, or use an environment written in JAX."
        )

    return guarded


def with_cause(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`, where a failure of a host simulator is raised as itself, not as XLA's report of it."""
    take_failure()  # one that nobody asked for is not the cause of what fails now
    try:
        return jax.block_until_ready(function(*args))
    except jax.errors.JaxRuntimeError:
        failure = take_failure()
        if failure is None:
            raise
        raise failure from None
