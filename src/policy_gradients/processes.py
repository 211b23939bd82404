"""Several processes that train together, on one machine or many: one runs each share of the environments.

JAX runs the same program in all of them, so whatever decides the course of a run has to be equal in all, and what sends
has to be done by all in the same order. One process, the lead, writes files and speaks; it is the first.

A process joins by `jax.distributed.initialize`, before anything computes.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

from policy_gradients.errors import UserError

LONGEST = 4096
"""Bytes of text that `from_lead` can send: as long as a path may be."""


class PeerLost(RuntimeError):
    """Another process stopped in the middle of a run, which cannot go on without it."""


def count() -> int:
    """P, how many there are; 1 where nothing was joined."""
    return jax.process_count()


def leads() -> bool:
    """Whether this is the lead."""
    return jax.process_index() == 0


def gather(array: np.ndarray) -> np.ndarray:
    """The arrays of all processes, to the bit, [P, ...]; shape and dtype are the same in each. All must call it."""
    array = np.asarray(array)
    if count() == 1:
        return array[None]
    sent = np.frombuffer(array.tobytes(), np.uint8)
    with noticing_loss():
        received = np.asarray(multihost_utils.process_allgather(sent))
    return np.frombuffer(received.tobytes(), array.dtype).reshape(count(), *array.shape)


@contextmanager
def noticing_loss() -> Iterator[None]:
    """Around what sends: a failure to reach the others is raised as `PeerLost`."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # A jitted function raises a ValueError that begins with XLA's name of the status, such as "UNKNOWN: Gloo …".
        of_xla = isinstance(error, jax.errors.JaxRuntimeError) or re.match("[A-Z_]+: ", str(error))
        if count() == 1 or not of_xla or "RESOURCE_EXHAUSTED" in str(error):
            raise
        raise PeerLost(f"Another process of this run stopped ({str(error).splitlines()[0]}).") from None


def gather_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`gather` of each, by name."""
    return {name: gather(array) for name, array in arrays.items()}


def wait() -> None:
    """Returns once all have called it."""
    gather(np.zeros(1, np.uint8))


def check_equal(what: str, text: str) -> None:
    """Refuses, in every process, to train together where a text is not the same in all. All must call it.

    Raises:
        UserError: Some have another text, or other numbers of devices than others.
    """
    if count() == 1:
        return
    devices = Counter(device.process_index for device in jax.devices())
    if len(devices) < count() or len({*devices.values()}) > 1:
        raise UserError(
            f"Every process needs as many devices as the others, but they have "
            f"{', '.join(str(devices[index]) for index in range(count()))}; give each its own (CUDA_VISIBLE_DEVICES)."
        )
    heard = gather(np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8))
    others = [index for index in range(count()) if not np.array_equal(heard[index], heard[0])]
    if others:
        raise UserError(
            f"All processes must start with the same {what}, but process {', '.join(map(str, others))} has others than "
            "process 0; give all the same command and the same files."
        )


def from_lead(make: Callable[[], str]) -> str:
    """What a function returns that the lead alone calls, in every process.

    Raises:
        UserError: It raised one.
    """
    if count() == 1:
        return make()
    said = np.zeros(1 + LONGEST, np.uint8)  # a text behind a 1, or nothing
    failure = None
    if leads():
        try:
            text = make().encode()
            said[0], said[1 : 1 + len(text)] = 1, list(text)
        except UserError as error:
            failure = error
    heard = gather(said)[0]
    if failure is not None:
        raise failure
    if not heard[0]:
        raise UserError("The first process stopped before it began; its own message says why.")
    return heard[1:].tobytes().rstrip(b"\0").decode()
