"""Calls from a compiled program to NumPy functions.

XLA calls back through its foreign function interface (a C ABI) into a handler made with ctypes. On the CPU it sees the
program's own buffers as NumPy arrays and copies nothing more than the results. One call costs some 10 µs beyond the
function's own time; `jax.experimental.io_callback`, which wraps every buffer into a `jax.Array` first, costs several
times that (benchmarks/bridge.py). On a CUDA device the handler copies through pinned memory, on the program's own
stream, and each array of the results once.
"""

import itertools
import os
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from policy_gradients import backend
from policy_gradients.environments import xla_ffi
from policy_gradients.environments.base import Array
from policy_gradients.environments.cuda import Driver, load_driver

HostFunction = Callable[..., tuple[np.ndarray, ...]]
_Kinds = list[tuple[tuple[int, ...], np.dtype]]

CUDA_BRIDGE = "POLICY_GRADIENTS_CUDA_BRIDGE"
"""Name in the process's environment: 0 keeps a CUDA device from being reached by the driver's own copies."""

_numbers = itertools.count()
_failure: list[BaseException] = []


def take_failure() -> BaseException | None:
    """The exception that a host simulator raised inside the compiled program, with its traceback; None if none did.

    XLA reports only a message; the loop that runs the program calls this to re-raise the cause. Reading clears it.
    """
    failure = _failure[-1] if _failure else None
    _failure.clear()
    return failure


def host_call(
    function: HostFunction, args: list[jax.ShapeDtypeStruct], results: list[jax.ShapeDtypeStruct]
) -> Callable[..., list[Array]]:
    """A traceable call of a NumPy function: `function(*arrays)` returns one array per result.

    Calls are never dropped, and are ordered only by their data: thread a counter through them, which also shows the
    function a call that XLA for a GPU repeats. Arrays that it is given are valid until it returns. Where it is traced
    decides how it is called: on a CUDA device by the driver's copies, unless `CUDA_BRIDGE` is "0" in the process's
    environment or they fail a trial; on another accelerator by JAX's own callback, which copies every array several
    times.
    """

    @cache
    def target(platform: str) -> Callable[..., Any]:
        if platform == "cpu":
            return _ffi_call("cpu", _Views(function, _kinds(args), _kinds(results)), results)
        driver = load_driver() if platform == "gpu" and os.environ.get(CUDA_BRIDGE) != "0" else None
        if driver is not None and _bridges(driver):
            return _ffi_call("CUDA", _Copies(function, _kinds(args), _kinds(results), driver), results)
        return lambda *arrays: io_callback(_noting_failures(function), results, *arrays)

    return lambda *arrays: list(target(backend.platform())(*arrays))


def _kinds(specs: list[jax.ShapeDtypeStruct]) -> _Kinds:
    return [(spec.shape, np.dtype(spec.dtype)) for spec in specs]


def _ffi_call(
    platform: str, execute: Callable[[xla_ffi.Frame], None], results: list[jax.ShapeDtypeStruct]
) -> Callable[..., Any]:
    name = f"policy_gradients_host_call_{next(_numbers)}"
    xla_ffi.register_target(name, platform, execute, _failure.append)
    return jax.ffi.ffi_call(name, results, has_side_effect=True)


class _Views:
    """One call on the CPU: the function sees XLA's own buffers."""

    def __init__(self, function: HostFunction, args: _Kinds, results: _Kinds) -> None:
        self._function, self._args, self._results = function, args, results
        self._known_args: dict = {}
        self._known_results: dict = {}

    def __call__(self, frame: xla_ffi.Frame) -> None:
        inputs = _views(frame.args, self._args, self._known_args)
        outputs = _views(frame.rets, self._results, self._known_results)
        for output, value in zip(outputs, self._function(*inputs), strict=True):
            np.copyto(output, value, casting="same_kind")


def _views(buffers: xla_ffi.Buffers, kinds: _Kinds, known: dict) -> list[np.ndarray]:
    """NumPy views of XLA's buffers; a loop passes the same addresses again and again, so views are remembered."""
    arrays = []
    for i, (shape, dtype) in enumerate(kinds):
        address = buffers.buffers[i].contents.data
        array = known.get((address, i))
        if array is None:
            array = xla_ffi.view(address, shape, dtype)
            if len(known) > 256:
                known.clear()
            known[address, i] = array
        arrays.append(array)
    return arrays


class _Copies:
    """One call on a CUDA device: arguments are copied to pinned memory and results from there.

    The copies to the device go on while the program does: the stream keeps their order, and the next call waits for
    the stream before it writes to the same memory. A result that is the same array as one before it (the last
    observation of a step in which nothing ended) is copied on the device.
    """

    def __init__(self, function: HostFunction, args: _Kinds, results: _Kinds, driver: Driver) -> None:
        self._function, self._kinds, self._driver = function, (args, results), driver
        self._memory: tuple[list[np.ndarray], list[np.ndarray]] | None = None
        self._stream = 0  # of the call before

    def __call__(self, frame: xla_ffi.Frame) -> None:
        stream = xla_ffi.stream(frame)
        self._driver.enter(stream)
        try:
            self._memory = self._memory or self._allocate()
            arguments, results = self._memory
            if self._stream not in (0, stream):
                self._driver.wait(self._stream)
            self._stream = stream
            for host, address in zip(arguments, xla_ffi.addresses(frame.args), strict=True):
                self._driver.read(host, address, stream)
            self._driver.wait(stream)
            self._write(self._function(*arguments), results, xla_ffi.addresses(frame.rets), stream)
        finally:
            self._driver.leave()

    def _allocate(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        arguments, results = ([self._driver.pinned(*kind) for kind in kinds] for kinds in self._kinds)
        return arguments, results

    def _write(self, values: tuple[np.ndarray, ...], results: list[np.ndarray], places: list[int], stream: int) -> None:
        written: dict[tuple[int, np.dtype], int] = {}
        for value, host, place in zip(values, results, places, strict=True):
            source = written.setdefault((id(value), host.dtype), place)
            if source != place:
                self._driver.repeat(place, source, host.nbytes, stream)
                continue
            np.copyto(host, value, casting="same_kind")
            self._driver.write(place, host, stream)


@cache
def _bridges(driver: Driver) -> bool:
    """Whether arrays come there and back whole; else it is said once, and JAX's own callback serves."""
    kinds = [jax.ShapeDtypeStruct((3,), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.bool_)]
    execute = _Copies(lambda x, flag: (x + 1, ~flag, x + 1, flag), _kinds(kinds), _kinds(kinds * 2), driver)
    try:
        x, flag = np.arange(3, dtype=np.float32), np.array([True, False])
        # Compiled ahead: this may be asked while another program is traced.
        call = jax.jit(_ffi_call("CUDA", execute, kinds * 2)).lower(x, flag).compile()
        one, two, three, four = jax.device_get(call(x, flag))
        wrong = not ((one == x + 1).all() and (two == ~flag).all() and (three == x + 1).all() and (four == flag).all())
        reason = "it returned other arrays than were sent" if wrong else ""
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        take_failure()
    if reason:
        warnings.warn(f"Simulators on the host are called by JAX's own, slower callback: {reason}.", stacklevel=2)
    return not reason


def _noting_failures(function: HostFunction) -> HostFunction:
    def call(*arrays: Any) -> tuple[np.ndarray, ...]:
        try:
            return tuple(np.asarray(result) for result in function(*map(np.asarray, arrays)))
        except BaseException as failure:
            _failure.append(failure)
            raise

    return call
