"""MuJoCo Warp inside a compiled program: `(state, control) -> (state, fields)` for N worlds of one model.

XLA calls through Warp's FFI. A call copies the packed state and the controls into the engine's own buffers, replays the
launches of one environment step, and copies out what the task reads. On a GPU these launches are recorded once as a
CUDA graph over the engine's buffers, which never move: however XLA places its arrays, nothing is recorded again (a
graph over XLA's own buffers is recorded anew whenever they move, for three to four times the price of a step).

Importing this module imports Warp (0.5 s) and makes its plane-capsule contacts agree with C's, for the whole process.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import mujoco_warp as mjw
import warp as wp

from policy_gradients.environments.mujoco import warp_kernels
from policy_gradients.environments.mujoco.models import import_mujoco
from policy_gradients.environments.mujoco.tasks import Task
from policy_gradients.environments.mujoco.warp_device import check_room, compile_together
from policy_gradients.environments.mujoco.warp_kernels import put, take

mujoco = import_mujoco()
Array = Any
Call: TypeAlias = Callable[..., list[Array]]  # (packed state, control) -> [packed results, overflow]


class Moved(NamedTuple):
    """What a call of the physics returns, for N worlds."""

    state: Array  # qpos, qvel and the solver's warm start, packed                              [N, nq + 2 nv]
    fields: dict[str, Array]  # MjData's arrays that the task reads, by MjData's names          [N, ...]
    overflow: Array  # int32, not 0 where contacts or constraints found no room                 [N]


_NO_ROOM = int(mjw.OverflowType.ALL & ~(mjw.OverflowType.ITERATIONS | mjw.OverflowType.LS_ITERATIONS))


class Capacity(NamedTuple):
    """Room for contacts and constraints."""

    contacts: int  # per world on average: all worlds share the room
    constraints: int  # per world at most


CAPACITIES = {
    "HalfCheetah": Capacity(16, 48),
    "Swimmer": Capacity(4, 8),
    "Hopper": Capacity(12, 48),
    "Walker2d": Capacity(16, 56),
    "Ant": Capacity(24, 64),
    "Humanoid": Capacity(24, 96),
    "HumanoidStandup": Capacity(40, 160),
    "InvertedPendulum": Capacity(4, 8),
    "InvertedDoublePendulum": Capacity(4, 8),
    "Reacher": Capacity(4, 16),
    "Pusher": Capacity(16, 48),
}
"""By task, about twice the most that C met in 6,000 steps from random states under random actions."""


class WarpPhysics:
    """N worlds of a task's model. `step` and `forward` can be traced, and mapped with `jax.vmap`; no gradients.

    Mapped over S members, the calls of all are one call of an engine of S·N worlds, which is made when it is traced.

    Attributes:
        num_worlds: N.
    """

    def __init__(self, task: Task, num_worlds: int, devices: Sequence[Any], *, moves: bool) -> None:
        """Allocates the worlds, compiles the kernels that are not cached and records the launches.

        Args:
            task: The task.
            num_worlds: N, on each device.
            devices: Warp's devices, "cuda:0" or "cpu". A call runs on the one on which its arrays are.
            moves: True for `step`, False for `forward`.
        """
        self._model, self.num_worlds = task.model, num_worlds
        self._derived = tuple(name for name in task.rules.reads if name not in ("qpos", "qvel", "ctrl"))
        self._shapes = {name: getattr(mujoco.MjData(task.model), name).shape for name in self._derived}
        self._make = partial(_Program, task, derived=self._derived, moves=moves)
        self._task, self._devices = task, devices
        self._calls: dict[int, Call] = {}  # by number of worlds
        self._call = self._mappable(num_worlds)

    def step(self, state: Array, control: Array) -> Moved:
        """One environment step: `frame_skip` steps of the physics.

        Args:
            state: Packed states [N, nq + 2 nv].
            control: Actuator controls, clipped to their bounds by the physics [N, nu].
        """
        packed, overflow = self._call(state, control)
        return Moved(packed[:, : state.shape[1]], self.fields(packed, control), overflow & _NO_ROOM)

    def forward(self, qpos: Array, qvel: Array) -> Moved:
        """What follows from positions and velocities at rest controls, as after Gymnasium's `set_state`."""
        control = jnp.zeros((self.num_worlds, self._model.nu), jnp.float32)
        state = jnp.concatenate([qpos, qvel, jnp.zeros_like(qvel)], axis=1)
        return self.step(state, control)

    def fields(self, packed: Array, control: Array) -> dict[str, Array]:
        """MjData's arrays out of packed ones; without derived fields, out of a packed state."""
        nq, nv = self._model.nq, self._model.nv
        found = {"qpos": packed[:, :nq], "qvel": packed[:, nq : nq + nv], "ctrl": control}
        start = nq + 2 * nv
        for name in self._derived:
            shape = self._shapes[name]
            width = _size(shape)
            found[name] = packed[:, start : start + width].reshape(-1, *shape)
            start += width
        return found

    def _mappable(self, n: int) -> Call:
        """The call of an engine of n worlds; under `vmap`, of one with as many times more."""
        call = jax.custom_batching.custom_vmap(self._call_of(n))

        @call.def_vmap
        def fold(axis_size: int, in_batched: Sequence[bool], *arrays: Array) -> tuple[list[Array], list[bool]]:
            mapped = [
                x if batched else jnp.broadcast_to(x, (axis_size, *x.shape))
                for x, batched in zip(arrays, in_batched, strict=True)
            ]
            results = self._mappable(axis_size * n)(*(x.reshape(axis_size * n, *x.shape[2:]) for x in mapped))
            return [x.reshape(axis_size, n, *x.shape[1:]) for x in results], [True] * len(results)

        return call

    def _call_of(self, n: int) -> Call:
        """A traceable call of n worlds, on whichever device its arrays are; made once."""
        if n in self._calls:
            return self._calls[n]
        for device in self._devices:
            check_room(wp, self._task, n, device)
        made = [self._make(num_worlds=n, device=device) for device in self._devices]
        first, programs = made[0], {str(program.device): program for program in made}

        def run(
            state: wp.array2d(dtype=float),  # type: ignore[valid-type]
            control: wp.array2d(dtype=float),  # type: ignore[valid-type]
            packed: wp.array2d(dtype=float),  # type: ignore[valid-type]
            overflow: wp.array(dtype=int),  # type: ignore[valid-type]
        ) -> None:
            programs.get(str(packed.device), first).run(state, control, packed, overflow)

        dims = {"packed": (n, first.width), "overflow": (n,)}
        mode = wp.JaxCallableGraphMode.NONE  # the program has its own graph
        call = wp.jax_callable(run, num_outputs=2, graph_mode=mode, output_dims=dims, vmap_method=None)
        self._calls[n] = lambda state, control: list(call(state, control))
        return self._calls[n]


class _Program:
    """The engine's buffers on one device, and the launches of one call over them."""

    def __init__(self, task: Task, *, num_worlds: int, derived: tuple[str, ...], device: Any, moves: bool) -> None:
        self._frame_skip = task.frame_skip if moves else 0
        self._forces = moves and "cfrc_ext" in derived
        self.device, self._graph = wp.get_device(device), None
        with wp.ScopedDevice(self.device):
            self._model = mjw.put_model(_for_warp(task.model))
            self._model.opt.warn_overflow = 0  # counted, not printed
            self._model.opt.run_qacc_smooth = False  # Newton starts from the warm start, 5 % faster for Humanoid
            self._data = _make_data(task, num_worlds)
        data = self._data
        self._state = [data.qpos, data.qvel, data.qacc_warmstart]
        self._out = [*self._state, *(_as_floats(getattr(data, name)) for name in derived)]
        self.width = sum(part.shape[1] for part in self._out)
        self._record()

    def _record(self) -> None:
        """Loads every kernel, runs once, then records the launches where the device has graphs."""
        wp.load_module(warp_kernels, device=self.device)
        with wp.ScopedDevice(self.device):
            compile_together(wp, self._pretend)
            self._advance()
            wp.synchronize_device(self.device)
            if self.device.is_cuda:
                with wp.ScopedCapture(force_module_load=False) as capture:
                    self._advance()
                self._graph = capture.graph

    def _pretend(self) -> None:
        """`_advance` without the solver's loop on a condition, which would wait for what no kernel computes."""
        option, self._model.opt.graph_conditional = self._model.opt.graph_conditional, False
        try:
            self._advance()
        finally:
            self._model.opt.graph_conditional = option

    def _advance(self) -> None:
        model, data = self._model, self._data
        data.overflow.zero_()
        if not self._frame_skip:
            mjw.forward(model, data)
        for _ in range(self._frame_skip):
            mjw.step(model, data)
        if self._forces:
            mjw.rne_postconstraint(model, data)

    def run(self, state: Any, control: Any, packed: Any, overflow: Any) -> None:
        """Copies in, advances, copies out, on the device's current stream."""
        start = 0
        for part in self._state:
            wp.launch(take, dim=part.shape, inputs=[state, start], outputs=[part], device=self.device)
            start += part.shape[1]
        wp.copy(self._data.ctrl, control)
        if self._graph is None:
            with wp.ScopedDevice(self.device):
                self._advance()
        else:
            wp.capture_launch(self._graph)
        start = 0
        for part in self._out:
            wp.launch(put, dim=part.shape, inputs=[part, start], outputs=[packed], device=self.device)
            start += part.shape[1]
        wp.copy(overflow, self._data.overflow)


def bytes_per_world(task: Task) -> int:
    """Memory that one more world takes, bytes: the engine's buffers and as much again for what a step allocates."""
    with wp.ScopedDevice("cpu"):
        few, more = (_total_bytes(_make_data(task, n)) for n in (1, 9))
    return 2 * max(1, (more - few) // 8)


def _total_bytes(data: Any) -> int:
    found = [*vars(data).values(), *vars(data.contact).values(), *vars(data.efc).values()]
    return sum(array.capacity for array in found if isinstance(array, wp.array))


def _make_data(task: Task, num_worlds: int) -> Any:
    known = CAPACITIES.get(task.id.partition("-")[0])
    if known is None:
        return mjw.make_data(task.model, nworld=num_worlds)
    return mjw.make_data(task.model, nworld=num_worlds, nconmax=known.contacts, njmax=known.constraints)


def _for_warp(model: Any) -> Any:
    """The model with Newton's method where it asks for projected Gauss-Seidel, which Warp does not have.

    Both solve the same convex problem: positions differ by some 1e-6 after 60 steps.
    """
    if model.opt.solver == mujoco.mjtSolver.mjSOL_PGS:
        model = copy.copy(model)
        model.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
    return model


def _as_floats(array: Any) -> Any:
    """An array of vectors per world as plain numbers [N, numbers], in the same memory."""
    width = array.capacity // (4 * array.shape[0])
    flat = wp.array(ptr=array.ptr, dtype=float, shape=(array.shape[0], width), device=array.device)
    setattr(flat, "owner", array)  # noqa: B010, the memory lives as long as this view
    return flat


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for dim in shape:
        size *= dim
    return size
