"""The memory that worker processes share with the trainer: one block, cut into arrays over all N environments."""

import math
import mmap
import os
import tempfile
from typing import Any, NamedTuple

import numpy as np

_ALIGNMENT = 64  # bytes, a cache line: no two arrays share one


IDLE = -1
"""The cursor of a worker that is in no environment."""


class Layout(NamedTuple):
    """What decides the size and the place of every array."""

    num_envs: int
    num_workers: int
    obs_shape: tuple[int, ...]
    obs_dtype: str
    action_shape: tuple[int, ...]
    action_dtype: str


class Buffers(NamedTuple):
    """Views of the shared block, over all environments; worker w writes only its own rows."""

    obs: np.ndarray  # what to act on next                                              [N, *obs]
    final_obs: np.ndarray  # s_{t+1} before the reset, only where an episode ended      [N, *obs]
    action: np.ndarray  # [N, *action]
    reward: np.ndarray  # float32 [N]
    terminated: np.ndarray  # bool [N]
    truncated: np.ndarray  # bool [N]
    seed: np.ndarray  # of the next reset, int64 [N]
    cursor: np.ndarray  # which environment each worker is in, for the report of a crash; int64 [num_workers]


def _fields(layout: Layout) -> dict[str, tuple[tuple[int, ...], str]]:
    n, obs = layout.num_envs, (layout.num_envs, *layout.obs_shape)
    return {
        "obs": (obs, layout.obs_dtype),
        "final_obs": (obs, layout.obs_dtype),
        "action": ((n, *layout.action_shape), layout.action_dtype),
        "reward": ((n,), "float32"),
        "terminated": ((n,), "bool"),
        "truncated": ((n,), "bool"),
        "seed": ((n,), "int64"),
        "cursor": ((max(1, layout.num_workers),), "int64"),
    }


def _padded_size(shape: tuple[int, ...], dtype: str) -> int:
    return -(-max(1, math.prod(shape) * np.dtype(dtype).itemsize) // _ALIGNMENT) * _ALIGNMENT


def block_size(layout: Layout) -> int:
    """Bytes that `buffers` needs."""
    return sum(_padded_size(*field) for field in _fields(layout).values())


def buffers(block: Any, layout: Layout) -> Buffers:
    """The arrays of a block of memory (anything with the buffer interface, `block_size(layout)` bytes)."""
    views, offset = [], 0
    for shape, dtype in _fields(layout).values():
        views.append(np.frombuffer(block, dtype, math.prod(shape), offset).reshape(shape))
        offset += _padded_size(shape, dtype)
    return Buffers(*views)


def shared_file() -> int:
    """File descriptor of anonymous memory: it has no name, so nothing is left behind whoever is killed."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("policy-gradients")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def shared_block(descriptor: int, layout: Layout) -> mmap.mmap:
    """The shared file mapped into this process, grown to its size by whoever comes first."""
    size = block_size(layout)
    if os.fstat(descriptor).st_size < size:
        os.ftruncate(descriptor, size)
    return mmap.mmap(descriptor, size)
