"""Copies between a CUDA device and the host, on a given stream, by the driver's own library.

Only what a call from a compiled program to the host needs; no CUDA toolkit has to be installed.
"""

import ctypes
import math
from functools import cache
from typing import Any

import numpy as np

from policy_gradients.environments.xla_ffi import view

_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
_PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE: pinned for every context of the process
_c_ptr, _c_size = ctypes.c_void_p, ctypes.c_size_t

_SIGNATURES = {
    "cuMemHostAlloc": (ctypes.POINTER(_c_ptr), _c_size, ctypes.c_uint),
    "cuMemcpyDtoHAsync_v2": (_c_ptr, ctypes.c_uint64, _c_size, _c_ptr),
    "cuMemcpyHtoDAsync_v2": (ctypes.c_uint64, _c_ptr, _c_size, _c_ptr),
    "cuMemcpyDtoDAsync_v2": (ctypes.c_uint64, ctypes.c_uint64, _c_size, _c_ptr),
    "cuStreamSynchronize": (_c_ptr,),
    "cuStreamGetCtx": (_c_ptr, ctypes.POINTER(_c_ptr)),
    "cuCtxPushCurrent_v2": (_c_ptr,),
    "cuCtxPopCurrent_v2": (ctypes.POINTER(_c_ptr),),
    "cuGetErrorString": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
}


@cache
def load_driver() -> "Driver | None":
    """NVIDIA's driver; None where there is none, or one that lacks what is needed."""
    for name in _LIBRARIES:
        try:
            return Driver(ctypes.CDLL(name))
        except (OSError, AttributeError):
            continue
    return None


class Driver:
    """The few calls that are needed; each raises RuntimeError where the driver reports an error.

    Args:
        library: The driver's library, loaded.
    """

    def __init__(self, library: Any) -> None:
        self._functions = {}
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = list(arguments), ctypes.c_int
            self._functions[name] = function

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array in host memory that the device reads and writes by itself; it lives as long as the process."""
        pointer = _c_ptr()
        self._call("cuMemHostAlloc", ctypes.byref(pointer), max(1, math.prod(shape) * dtype.itemsize), _PORTABLE)
        return view(pointer.value or 0, shape, dtype)

    def enter(self, stream: int) -> None:
        """Makes the stream's context the calling thread's, until `leave`."""
        context = _c_ptr()
        self._call("cuStreamGetCtx", stream, ctypes.byref(context))
        self._call("cuCtxPushCurrent_v2", context)

    def leave(self) -> None:
        """Gives the thread back the context that it had."""
        self._call("cuCtxPopCurrent_v2", ctypes.byref(_c_ptr()))

    def read(self, host: np.ndarray, device: int, stream: int) -> None:
        """Begins to copy from the device."""
        self._call("cuMemcpyDtoHAsync_v2", host.ctypes.data, device, host.nbytes, stream)

    def write(self, device: int, host: np.ndarray, stream: int) -> None:
        """Begins to copy to the device."""
        self._call("cuMemcpyHtoDAsync_v2", device, host.ctypes.data, host.nbytes, stream)

    def repeat(self, device: int, source: int, size: int, stream: int) -> None:
        """Begins to copy so many bytes from one place on the device to another."""
        self._call("cuMemcpyDtoDAsync_v2", device, source, size, stream)

    def wait(self, stream: int) -> None:
        """Waits for all that the stream has begun."""
        self._call("cuStreamSynchronize", stream)

    def _call(self, name: str, *arguments: Any) -> None:
        code = self._functions[name](*arguments)
        if code:
            text = ctypes.c_char_p()
            self._functions["cuGetErrorString"](code, ctypes.byref(text))
            raise RuntimeError(f"The CUDA driver's {name} failed: {(text.value or b'unknown error').decode()}.")
