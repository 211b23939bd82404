"""MuJoCo's C engine on many worlds at once, in threads.

A world is a row of numbers, MuJoCo's integration state (time, positions, velocities, warm start of the solver, controls
…): whatever thread steps it computes the same, and a copy of the rows is a complete snapshot. `physics` chooses between
MuJoCo's own `mujoco.batch` and, for tasks that read contact forces, which it does not compute, threads of Python that
call the same engine and lose a few per cent to it.
"""

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np

from policy_gradients.environments.mujoco.models import import_mujoco
from policy_gradients.environments.mujoco.tasks import Task

mujoco = import_mujoco()

_STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)
_PARTS = {
    "qpos": int(mujoco.mjtState.mjSTATE_QPOS),
    "qvel": int(mujoco.mjtState.mjSTATE_QVEL),
    "ctrl": int(mujoco.mjtState.mjSTATE_CTRL),
}
_BAD = slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADCTRL) + 1)


class Physics(Protocol):
    """N worlds of one model.

    Attributes:
        state: One integration state per world; a write counts from the next call on  [N, state].
        fields: MjData's arrays by name; `qpos`, `qvel` and `ctrl` are parts of `state`, others are filled by calls.
    """

    state: np.ndarray
    fields: dict[str, np.ndarray]

    def step(self) -> None:
        """Advance every world by one environment step."""

    def forward(self, worlds: np.ndarray) -> None:
        """Compute the fields of some worlds (sorted indices) from their states, as after Gymnasium's `set_state`."""

    def unstable(self) -> np.ndarray:
        """Indices of worlds in which MuJoCo has met NaN or a huge number since the last `clear`, mostly none.

        MuJoCo then resets the world (positions, velocities, accelerations) or its controls and goes on.
        """
        ...

    def clear(self) -> None:
        """Forget what was unstable."""

    def close(self) -> None:
        """End the threads."""


def physics(task: Task, num_envs: int, num_threads: int) -> Physics:
    """The faster engine that fills every field the task reads.

    Args:
        task: The task.
        num_envs: N.
        num_threads: Threads, the caller's included; 0 for all processors, never more than worlds.
    """
    threads = min(num_threads or _processors(), num_envs)
    kind = ThreadedPhysics if "cfrc_ext" in task.rules.reads else BatchPhysics
    return kind(task, num_envs, threads)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_row(model: Any) -> np.ndarray:
    """The integration state of a world at rest in the reference configuration [state]."""
    row = np.empty(mujoco.mj_stateSize(model, _STATE))
    mujoco.mj_getState(model, mujoco.MjData(model), row, _STATE)
    return row


class BatchPhysics:
    """`mujoco.batch`: MuJoCo's threads over MuJoCo's loop."""

    def __init__(self, task: Task, num_envs: int, num_threads: int) -> None:
        from mujoco import batch

        self._batch = batch.Batch(task.model, num_envs, num_threads)
        self._frame_skip = task.frame_skip
        self._bad = self._batch.warning[:, _BAD, 1]
        self.state = self._batch.state
        names = dict.fromkeys(("qpos", "qvel", "ctrl", *task.rules.reads))
        self.fields = {name: self._batch.bind(name) for name in names}

    def step(self) -> None:
        self._batch.step(nstep=self._frame_skip)

    def forward(self, worlds: np.ndarray) -> None:
        self._batch.forward(worlds)

    def unstable(self) -> np.ndarray:
        return np.flatnonzero(self._bad.any(1)) if np.count_nonzero(self._bad) else _NONE

    def clear(self) -> None:
        self._bad[...] = 0

    def close(self) -> None:
        vars(self).clear()  # the batch ends its threads when it and every view of it are gone


_NONE = np.zeros(0, np.int64)


class ThreadedPhysics:
    """Threads of Python around `mj_step` and `mj_rnePostConstraint`, which Gymnasium calls in every step too.

    Each thread has one MjData, into which it loads a world's row and from which it saves it, so that what is hot stays
    in its cache. Both functions release the interpreter's lock; Python holds it for some 4 µs per world and step.
    """

    def __init__(self, task: Task, num_envs: int, num_threads: int) -> None:
        model = task.model
        self._workers = [_Worker(model, task.frame_skip) for _ in range(num_threads)]
        data = self._workers[0].data
        self.state = np.tile(start_row(model), (num_envs, 1))
        self.fields = {name: _component(model, self.state, name) for name in _PARTS}
        derived = [name for name in task.rules.reads if name not in _PARTS]
        self.fields |= {name: np.zeros((num_envs, *getattr(data, name).shape)) for name in derived}
        worlds = [(row, [self.fields[name][i] for name in derived]) for i, row in enumerate(self.state)]
        self._bad = set[int]()
        for worker in self._workers:
            worker.serve(worlds, [getattr(worker.data, name) for name in derived], self._bad)
        self._tasks, self._done = SimpleQueue(), SimpleQueue()
        for worker in self._workers[1:]:
            threading.Thread(target=_serve, args=(worker.step, self._tasks, self._done), daemon=True).start()
        self._stop = weakref.finalize(self, _stop, self._tasks, len(self._workers) - 1)

    def step(self) -> None:
        others = len(self._workers) - 1
        worlds = deque(range(len(self.state)))
        worlds.extend([_END] * (others + 1))
        for _ in range(others):
            self._tasks.put(worlds)
        failures = [_attempt(self._workers[0].step, worlds), *(self._done.get() for _ in range(others))]
        for failure in failures:
            if failure is not None:
                raise failure

    def forward(self, worlds: np.ndarray) -> None:
        for world in worlds.tolist():
            self._workers[0].forward(world)

    def unstable(self) -> np.ndarray:
        return np.array(sorted(self._bad), np.int64) if self._bad else _NONE

    def clear(self) -> None:
        self._bad.clear()

    def close(self) -> None:
        stop = vars(self).pop("_stop", None)
        if stop is not None:
            stop()
        vars(self).clear()


_END = -1  # after the last world to step, once per thread


class _Worker:
    """One MjData and the loop that steps worlds with it."""

    def __init__(self, model: Any, frame_skip: int) -> None:
        self.data = mujoco.MjData(model)
        self._model, self._frame_skip = model, frame_skip
        self._warnings = self.data.warning.number[_BAD]

    def serve(self, worlds: list[tuple[np.ndarray, list]], sources: list[np.ndarray], bad: set[int]) -> None:
        """Take the worlds' rows and destinations of derived fields, the MjData's own fields, and a set to fill."""
        self._worlds, self._sources, self._bad = worlds, sources, bad

    def step(self, worlds: deque[int]) -> None:
        """Step worlds until none is left; other workers take from the same end of the same queue."""
        model, data, frame_skip, sources = self._model, self.data, self._frame_skip, self._sources
        for world in iter(worlds.popleft, _END):
            row, destinations = self._worlds[world]
            mujoco.mj_setState(model, data, row, _STATE)
            mujoco.mj_step(model, data, frame_skip)
            mujoco.mj_rnePostConstraint(model, data)
            mujoco.mj_getState(model, data, row, _STATE)
            for destination, source in zip(destinations, sources, strict=True):
                destination[...] = source
            if np.count_nonzero(self._warnings):
                self._bad.add(world)
                self._warnings[...] = 0

    def forward(self, world: int) -> None:
        """Fill a world's fields from its state; contact forces are zero, as after Gymnasium's reset."""
        row, destinations = self._worlds[world]
        mujoco.mj_resetData(self._model, self.data)
        mujoco.mj_setState(self._model, self.data, row, _STATE)
        mujoco.mj_forward(self._model, self.data)
        mujoco.mj_getState(self._model, self.data, row, _STATE)
        for destination, source in zip(destinations, self._sources, strict=True):
            destination[...] = source


def _component(model: Any, state: np.ndarray, name: str) -> np.ndarray:
    """The part of every row that holds a field."""
    start = mujoco.mj_stateSize(model, _STATE & (_PARTS[name] - 1))
    return state[:, start : start + mujoco.mj_stateSize(model, _PARTS[name])]


def _serve(step: Callable[[deque[int]], None], tasks: SimpleQueue, done: SimpleQueue) -> None:
    while (worlds := tasks.get()) is not None:
        done.put(_attempt(step, worlds))


def _attempt(step: Callable[[deque[int]], None], worlds: deque[int]) -> Exception | None:
    try:
        step(worlds)
    except Exception as failure:  # handed to the caller's thread
        return failure
    return None


def _stop(tasks: SimpleQueue, threads: int) -> None:
    for _ in range(threads):
        tasks.put(None)
