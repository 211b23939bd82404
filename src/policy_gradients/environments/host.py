"""Host simulators inside a compiled program.

`host_environment` turns a `HostSimulator` into an `Environment` whose `reset` and `step` can be traced: XLA calls back
through its foreign function interface (a C ABI) into a handler made with ctypes, which sees the program's own buffers
as NumPy arrays and copies nothing more than the step's results. One step costs some 10 µs beyond the simulator;
`jax.experimental.io_callback`, which wraps every buffer into a `jax.Array` first, costs several times that
(benchmarks/bridge.py).

Calls stay in order because each takes and returns the count of steps: a chain of data dependencies, which also is the
environment's whole state on the device. The simulator's own state stays on the host: `snapshot` and `restore` read and
write it.
"""

import ctypes
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from policy_gradients.environments.base import Array, Environment, EnvironmentFailure, EnvState, HostSimulator, Step
from policy_gradients.errors import UserError

_c_size, _c_int, _c_ptr, _c_i64 = ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_int64


class _Extension(ctypes.Structure):
    _fields_ = [("struct_size", _c_size), ("type", _c_int), ("next", _c_ptr)]


class _Version(ctypes.Structure):
    _fields_ = [("struct_size", _c_size), ("extension_start", _c_ptr), ("major", _c_int), ("minor", _c_int)]


class _Metadata(ctypes.Structure):
    _fields_ = [("struct_size", _c_size), ("version", _Version), ("traits", ctypes.c_uint32)]


class _MetadataExtension(ctypes.Structure):
    _fields_ = [("base", _Extension), ("metadata", ctypes.POINTER(_Metadata))]


class _Api(ctypes.Structure):
    _fields_ = [
        ("struct_size", _c_size),
        ("extension_start", _c_ptr),
        ("version", _Version),
        ("internal", _c_ptr),
        ("error_create", ctypes.CFUNCTYPE(_c_ptr, _c_ptr)),
    ]


class _ErrorCreate(ctypes.Structure):
    _fields_ = [
        ("struct_size", _c_size),
        ("extension_start", _c_ptr),
        ("message", ctypes.c_char_p),
        ("code", _c_int),
    ]


class _Buffer(ctypes.Structure):
    _fields_ = [
        ("struct_size", _c_size),
        ("extension_start", _c_ptr),
        ("dtype", _c_int),
        ("data", _c_ptr),
        ("rank", _c_i64),
        ("dims", ctypes.POINTER(_c_i64)),
    ]


class _Buffers(ctypes.Structure):  # XLA_FFI_Args and XLA_FFI_Rets alike
    _fields_ = [
        ("struct_size", _c_size),
        ("extension_start", _c_ptr),
        ("size", _c_i64),
        ("types", _c_ptr),
        ("buffers", ctypes.POINTER(ctypes.POINTER(_Buffer))),
    ]


class _CallFrame(ctypes.Structure):
    _fields_ = [
        ("struct_size", _c_size),
        ("extension_start", ctypes.POINTER(_Extension)),
        ("api", ctypes.POINTER(_Api)),
        ("ctx", _c_ptr),
        ("stage", _c_int),
        ("args", _Buffers),
        ("rets", _Buffers),
    ]


_METADATA_EXTENSION, _EXECUTE_STAGE, _ABORTED = 1, 3, 10
_handler_type = ctypes.CFUNCTYPE(_c_ptr, ctypes.POINTER(_CallFrame))
_numbers = itertools.count()
_alive: list[Any] = []  # XLA keeps raw pointers to handlers for the life of the process, so they must stay
_failure: list[BaseException] = []


def take_failure() -> BaseException | None:
    """The exception that a host simulator raised inside the compiled program, with its traceback; None if none did.

    XLA reports only a message; the loop that runs the program calls this to re-raise the cause. Reading clears it.
    """
    failure = _failure[-1] if _failure else None
    _failure.clear()
    return failure


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


def _error(api: _Api, message: str) -> int:
    args = _ErrorCreate(ctypes.sizeof(_ErrorCreate), None, message.encode(), _ABORTED)
    return api.error_create(ctypes.addressof(args))


def _views(buffers: _Buffers, kinds: list[tuple[tuple[int, ...], np.dtype]], known: dict) -> list[np.ndarray]:
    """NumPy views of XLA's buffers; a loop passes the same addresses again and again, so views are remembered."""
    arrays = []
    for i, (shape, dtype) in enumerate(kinds):
        address = buffers.buffers[i].contents.data
        array = known.get((address, i))
        if array is None:
            size = max(1, int(np.prod(shape)) * dtype.itemsize)
            raw = (ctypes.c_byte * size).from_address(address)
            array = np.frombuffer(memoryview(raw), dtype, count=int(np.prod(shape))).reshape(shape)
            if len(known) > 256:
                known.clear()
            known[address, i] = array
        arrays.append(array)
    return arrays


def host_call(
    function: Callable[..., tuple[np.ndarray, ...]],
    args: list[jax.ShapeDtypeStruct],
    results: list[jax.ShapeDtypeStruct],
) -> Callable[..., list[Array]]:
    """A traceable call of a NumPy function: `function(*arrays)` returns one array per result.

    Calls are never dropped or repeated, and are ordered only by their data: thread a counter through them. Where
    programs run on an accelerator, JAX's own callback is used, which copies every array there and back.
    """
    if jax.default_backend() != "cpu":
        return lambda *arrays: list(io_callback(_noting_failures(function), results, *arrays))
    arg_kinds = [(a.shape, np.dtype(a.dtype)) for a in args]
    result_kinds = [(r.shape, np.dtype(r.dtype)) for r in results]
    known_args: dict = {}
    known_results: dict = {}

    def handle(frame_pointer: Any) -> int | None:
        frame = frame_pointer.contents
        if frame.extension_start and frame.extension_start.contents.type == _METADATA_EXTENSION:
            extension = ctypes.cast(frame.extension_start, ctypes.POINTER(_MetadataExtension)).contents
            version = extension.metadata.contents.version
            version.major, version.minor = 0, 1
            return None
        if frame.stage != _EXECUTE_STAGE:
            return None
        try:
            inputs = _views(frame.args, arg_kinds, known_args)
            outputs = _views(frame.rets, result_kinds, known_results)
            for output, value in zip(outputs, function(*inputs), strict=True):
                np.copyto(output, value, casting="same_kind")
        except BaseException as failure:  # nothing may escape into C
            _failure.append(failure)
            return _error(frame.api.contents, f"{type(failure).__name__}: {failure}")
        return None

    handler = _handler_type(handle)
    name = f"policy_gradients_host_call_{next(_numbers)}"
    make_capsule = ctypes.pythonapi.PyCapsule_New
    make_capsule.restype, make_capsule.argtypes = ctypes.py_object, [_c_ptr, ctypes.c_char_p, _c_ptr]
    capsule = make_capsule(ctypes.cast(handler, _c_ptr), b"xla._CUSTOM_CALL_TARGET", None)
    jax.ffi.register_ffi_target(name, capsule, platform="cpu")
    _alive.extend([handler, capsule])
    call = jax.ffi.ffi_call(name, results, has_side_effect=True)
    return lambda *arrays: list(call(*arrays))


def _noting_failures(function: Callable[..., tuple[np.ndarray, ...]]) -> Callable[..., tuple[np.ndarray, ...]]:
    def call(*arrays: Any) -> tuple[np.ndarray, ...]:
        try:
            return tuple(np.asarray(result) for result in function(*map(np.asarray, arrays)))
        except BaseException as failure:
            _failure.append(failure)
            raise

    return call


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

    def reset_on_host(words: np.ndarray) -> tuple[np.ndarray, ...]:
        observation = simulator.reset(int(words[0]) << 32 | int(words[1]))
        _check(spec.id, "reset", ("obs",), (observation,), (obs,))
        return np.zeros((), np.int32), observation

    def step_on_host(index: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, ...]:
        out = simulator.step(actions)
        _check(spec.id, "step", Step._fields, out, fields)
        return index + 1, *out

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


def device_environment(spec: Any, reset: Callable, step: Callable) -> Environment:
    """The `Environment` of a simulator written in JAX: its whole state is the pytree that `step` carries."""

    def snapshot(state: EnvState) -> dict[str, np.ndarray]:
        return {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(key_data(state)))}

    def restore(arrays: Mapping[str, np.ndarray], state: EnvState) -> EnvState:
        leaves = jax.tree.leaves(state)
        restored = [
            jax.random.wrap_key_data(jnp.asarray(arrays[str(i)]))
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else jnp.asarray(arrays[str(i)], leaf.dtype)
            for i, leaf in enumerate(leaves)
        ]
        return jax.tree.unflatten(jax.tree.structure(state), restored)

    return Environment(spec, reset, step, snapshot, restore)


def key_data(tree: Any) -> Any:
    """The pytree with typed keys as the plain words that they are made of, which NumPy and files can hold."""
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, tree)
