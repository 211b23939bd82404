"""Calls from a compiled program to NumPy functions.

XLA calls back through its foreign function interface (a C ABI) into a handler made with ctypes, which sees the
program's own buffers as NumPy arrays and copies nothing more than the results. One call costs some 10 µs beyond the
function's own time; `jax.experimental.io_callback`, which wraps every buffer into a `jax.Array` first, costs several
times that (benchmarks/bridge.py).
"""

import ctypes
import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import io_callback

from policy_gradients.environments.base import Array

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
