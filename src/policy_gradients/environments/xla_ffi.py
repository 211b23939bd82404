"""XLA's foreign function interface from Python: the C structures of its header `xla/ffi/api/c_api.h`, by ctypes.

`register_target` makes a Python function the handler of a custom call; the other functions read what it is given.
"""

import ctypes
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np

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
        ("error_get_message", _c_ptr),
        ("error_destroy", _c_ptr),
        ("handler_register", _c_ptr),
        ("stream_get", ctypes.CFUNCTYPE(_c_ptr, _c_ptr)),
    ]


class _ErrorCreate(ctypes.Structure):
    _fields_ = [
        ("struct_size", _c_size),
        ("extension_start", _c_ptr),
        ("message", ctypes.c_char_p),
        ("code", _c_int),
    ]


class _StreamGet(ctypes.Structure):
    _fields_ = [("struct_size", _c_size), ("extension_start", _c_ptr), ("ctx", _c_ptr), ("stream", _c_ptr)]


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


Frame: TypeAlias = Any
"""One call of a handler; its `args` and `rets` are `Buffers`."""

Buffers: TypeAlias = _Buffers

_METADATA_EXTENSION, _EXECUTE_STAGE, _ABORTED = 1, 3, 10
_handler_type = ctypes.CFUNCTYPE(_c_ptr, ctypes.POINTER(_CallFrame))
_alive: list[Any] = []  # XLA keeps raw pointers to handlers for the life of the process, so they must stay


def register_target(
    name: str, platform: str, execute: Callable[[Frame], None], note: Callable[[BaseException], object]
) -> None:
    """Makes `execute` the target of custom calls of that name on one of XLA's platforms ("cpu", "CUDA").

    Args:
        name: A name that nothing else has there.
        platform: Of XLA.
        execute: Reads the arguments of a call and writes its results.
        note: Told what `execute` raises; XLA is told the message only, and ends the program.
    """

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
            execute(frame)
        except BaseException as failure:  # nothing may escape into C
            note(failure)
            return _error(frame.api.contents, f"{type(failure).__name__}: {failure}")
        return None

    handler = _handler_type(handle)
    make_capsule = ctypes.pythonapi.PyCapsule_New
    make_capsule.restype, make_capsule.argtypes = ctypes.py_object, [_c_ptr, ctypes.c_char_p, _c_ptr]
    capsule = make_capsule(ctypes.cast(handler, _c_ptr), b"xla._CUSTOM_CALL_TARGET", None)
    jax.ffi.register_ffi_target(name, capsule, platform=platform)
    _alive.extend([handler, capsule])


def addresses(buffers: Buffers) -> list[int]:
    """Where the arrays of a call lie, in the memory of the device that runs the program."""
    return [buffers.buffers[i].contents.data for i in range(buffers.size)]


def view(address: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The array at an address of the host's memory."""
    size = math.prod(shape)
    raw = (ctypes.c_byte * max(1, size * dtype.itemsize)).from_address(address)
    return np.frombuffer(memoryview(raw), dtype, count=size).reshape(shape)


def stream(frame: Frame) -> int:
    """The CUDA stream that a call belongs to, as the driver's `CUstream`.

    Raises:
        RuntimeError: XLA has none to give.
    """
    asked = _StreamGet(ctypes.sizeof(_StreamGet), None, frame.ctx, None)
    if frame.api.contents.stream_get(ctypes.addressof(asked)):
        raise RuntimeError("XLA gave no CUDA stream to a call to the host.")
    return asked.stream or 0


def _error(api: _Api, message: str) -> int:
    args = _ErrorCreate(ctypes.sizeof(_ErrorCreate), None, message.encode(), _ABORTED)
    return api.error_create(ctypes.addressof(args))
