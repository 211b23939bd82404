"""Episodes of a MuJoCo task in thousands of worlds on a GPU: `make_warp`.

The rules of the tasks are the functions that the C engine uses, here on JAX arrays in float32; the physics is MuJoCo
Warp's (`warp_physics`). Everything is inside the compiled program.
"""

import importlib.metadata
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from policy_gradients.environments.base import Array, Environment, Step, first_elapsed
from policy_gradients.environments.device import device_environment, key_data
from policy_gradients.environments.devices import over_devices
from policy_gradients.environments.mujoco.specification import specification
from policy_gradients.environments.mujoco.tasks import Rules, Task, load_task
from policy_gradients.environments.mujoco.warp_device import announce_kernels, import_warp, pick_devices
from policy_gradients.errors import UserError

HUGE = 1e10
"""A position or velocity beyond this makes a world unstable, as in C (mjMAXVAL)."""


class Ready(NamedTuple):
    """First states of episodes, [P, ...] each."""

    physics: Array  # packed state of the physics
    obs: Array  # first observation
    before: Array  # `rules.measure` of the state


class WarpState(NamedTuple):
    """N worlds that are stepped together."""

    physics: Array  # qpos, qvel and the solver's warm start                             [N, nq + 2 nv]
    before: Array  # what the reward remembers of the state                              [N, k]
    elapsed: Array  # int32, steps taken in the running episode                          [N]
    key: Array  # of all random draws, never changed: each folds a new number into it
    clock: Array  # uint32, steps since `reset`
    ready: Ready | None  # a ring of P ≥ N first states; None where they are drawn when needed
    next: Array  # int32, the ring's entry that the next episode takes
    unstable: Array  # int32, worlds that became unstable and were reset, so far
    overflows: Array  # int32, steps of worlds whose contacts or constraints found no room, so far


def make_warp(
    id: str,
    num_envs: int,
    max_episode_steps: int | None = None,
    device: str | None = None,
    mesh: Mesh | None = None,
    stagger: bool = False,
    **options: Any,
) -> Environment:
    """A MuJoCo task as an `Environment` of `num_envs` worlds on a GPU.

    A world whose episode ends is reset within the same step, as under the C engine. A world that becomes unstable
    (NaN, or beyond `HUGE`) is reset too: its row is not valid, so that nothing is learnt from it, and it is counted
    (`env/unstable_worlds`), as are steps in which contacts found no room (`env/overflows`).

    First states are distributed as Gymnasium's. Where an observation needs more than positions and velocities, a few
    are prepared at each step and queue in a ring; an episode takes the oldest. When more episodes begin than are
    prepared, states are used again.

    Args:
        id: One of `MUJOCO_IDS`, such as "HalfCheetah-v4".
        num_envs: N.
        max_episode_steps: Environment steps after which an episode is truncated; None for the task's own.
        device: Warp's name of a device; None for JAX's default GPU. "cpu" is for tests: some fifty times slower than
            the C engine.
        mesh: Several devices, each of which steps its share of the worlds with an engine of its own.
        stagger: Cut first episodes short at different times (`base.first_elapsed`).
        **options: Gymnasium's keyword arguments that change the task.

    Raises:
        UserError: No GPU, a driver that is too old, Warp not installed, too many worlds for the memory, or a wrong id,
            number or option.
    """
    task = load_task(id, **options)
    if task.model.na or task.model.nmocap:
        raise UserError(f"{id}: this model has activations or mocap bodies, which only the engine batch keeps.")
    limit = task.max_episode_steps if max_episode_steps is None else max_episode_steps
    for name, value in (("num_envs", num_envs), ("max_episode_steps", limit)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise UserError(f"{name} is a whole number of 1 or more, but {value!r} came.")
    warp = import_warp()
    devices = pick_devices(warp, device, mesh)
    share = num_envs // (1 if mesh is None else mesh.size)
    announce_kernels(warp, task, devices[0])
    worlds = _Worlds(task, share, limit, stagger, devices)
    versions = {"mujoco-warp": importlib.metadata.version("mujoco-warp"), "warp-lang": warp.__version__}
    spec = specification(task, "warp", share, limit, on_host=False, staggered=stagger, **versions)
    env = device_environment(spec, worlds.reset, worlds.step)
    if mesh is not None:
        env = over_devices(env, mesh)
    return env._replace(metrics=_metrics, restore=partial(_restore, env))


def _metrics(state: WarpState) -> dict[str, Array]:
    counts = {"env/unstable_worlds": state.unstable, "env/overflows": state.overflows}
    return {name: jnp.sum(count).astype(jnp.float32) for name, count in counts.items()}


def _restore(env: Environment, arrays: Mapping[str, np.ndarray], state: WarpState) -> WarpState:
    """The saved state; on another number of devices, its worlds, beside first states drawn anew."""
    leaves, structure = jax.tree.flatten(state)
    as_saved = [np.shape(arrays[str(i)]) == np.shape(leaf) for i, leaf in enumerate(key_data(leaves))]
    if all(as_saved):
        return env.restore(arrays, state)
    saved = jax.tree.unflatten(structure, [arrays[str(i)] for i in range(len(leaves))])
    whole = {name: jnp.asarray(getattr(saved, name)) for name in ("physics", "before", "elapsed")}
    first = jnp.arange(state.unstable.size).reshape(state.unstable.shape) == 0
    counts = {name: jnp.where(first, getattr(saved, name).sum(), 0) for name in ("unstable", "overflows")}
    return state._replace(
        **{name: x.reshape(getattr(state, name).shape) for name, x in whole.items()},
        **{name: x.astype(jnp.int32) for name, x in counts.items()},
        clock=jnp.full_like(state.clock, saved.clock.max()),
    )


class _Worlds:
    """`reset` and `step` of N worlds, as pure functions."""

    def __init__(self, task: Task, num_envs: int, limit: int, stagger: bool, devices: Sequence[Any]) -> None:
        from policy_gradients.environments.mujoco.warp_physics import WarpPhysics

        self._rules, self._limit, self._n = task.rules, limit, num_envs
        self._begun = first_elapsed(num_envs, limit) * stagger
        self._nv = task.model.nv
        self._moving = WarpPhysics(task, num_envs, devices, moves=True)
        self._still: WarpPhysics | None = None
        if not set(task.rules.reads) <= {"qpos", "qvel", "ctrl"}:
            self._still = WarpPhysics(task, max(1, num_envs // 32), devices, moves=False)

    def reset(self, key: Array) -> tuple[WarpState, Array]:
        """All worlds at the start of an episode."""
        first, ready = (self._fresh(jax.random.fold_in(key, i)) for i in range(2))
        first = jax.tree.map(lambda x: x[: self._n], first)
        ready = None if self._still is None else ready
        elapsed, zero = jnp.asarray(self._begun), jnp.zeros((), jnp.int32)
        state = WarpState(first.physics, first.before, elapsed, key, jnp.uint32(2), ready, zero, zero, zero)
        return state, first.obs

    def _fresh(self, key: Array) -> Ready:
        """N first states or a few more: a multiple of what one call of the physics prepares."""
        if self._still is None:
            return self._at_rest(key, self._n)
        chunks = -(-self._n // self._still.num_worlds)
        made = jax.lax.map(self._prepared, jax.random.split(key, chunks))
        return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), made)

    def _at_rest(self, key: Array, count: int) -> Ready:
        """First states whose observation needs positions and velocities alone."""
        qpos, qvel = _start(self._rules, key, count)
        physics = jnp.concatenate([qpos, qvel, jnp.zeros_like(qvel)], axis=1)
        fields = self._moving.fields(physics, jnp.zeros((count, 0), jnp.float32))
        return Ready(physics, self._rules.observe(fields), self._rules.measure(fields))

    def _prepared(self, key: Array) -> Ready:
        """First states whose fields the physics computes."""
        assert self._still is not None
        moved = self._still.forward(*_start(self._rules, key, self._still.num_worlds))
        with jax.default_matmul_precision("highest"):
            return Ready(moved.state, self._rules.observe(moved.fields), self._rules.measure(moved.fields))

    def step(self, state: WarpState, action: Array) -> tuple[WarpState, Step]:
        """All worlds one environment step further; those that end begin a new episode."""
        moved = self._moving.step(state.physics, action)
        obs, reward, after, terminated, sound = self._judge(state.before, moved, action)
        elapsed = state.elapsed + 1
        truncated = (elapsed >= self._limit) | ~sound
        done = terminated | truncated
        state, first = self._next_episodes(state, done)
        state = state._replace(
            physics=_where(done, first.physics, moved.state),
            before=_where(done, first.before, after),
            elapsed=jnp.where(done, 0, elapsed),
            clock=state.clock + 1,
            unstable=state.unstable + jnp.sum(~sound, dtype=jnp.int32),
            overflows=state.overflows + jnp.sum(moved.overflow != 0, dtype=jnp.int32),
        )
        return state, Step(_where(done, first.obs, obs), obs, reward, terminated, truncated, sound)

    def _judge(self, before: Array, moved: Any, action: Array) -> tuple[Array, ...]:
        """Observation, reward, measure, termination and soundness; an unsound world's numbers are zeros."""
        rules, fields = self._rules, moved.fields
        with jax.default_matmul_precision("highest"):  # a GPU's default has 10 bits: too few for a difference of x
            after, healthy = rules.measure(fields), rules.healthy(fields)
            reward = rules.reward(before, after, fields, action, healthy)
            obs = rules.observe(fields)
        sound = (jnp.abs(moved.state) < HUGE).all(-1) & jnp.isfinite(obs).all(-1) & jnp.isfinite(reward)
        terminated = sound & ~healthy if rules.terminates else jnp.zeros_like(sound)
        clean = lambda x: _where(sound, x, jnp.zeros_like(x))  # noqa: E731
        return clean(obs), clean(reward.astype(jnp.float32)), clean(after), terminated, sound

    def _next_episodes(self, state: WarpState, done: Array) -> tuple[WarpState, Ready]:
        """A first state for every world, and the ring without those that the worlds which are done take."""
        key = jax.random.fold_in(state.key, state.clock)
        if state.ready is None or self._still is None:
            return state, self._at_rest(key, self._n)
        size, width = state.ready.obs.shape[0], self._still.num_worlds
        rank = jnp.cumsum(done, dtype=jnp.int32)
        taken = jax.tree.map(lambda x: x[(state.next + rank - 1) % size], state.ready)
        slots = size // width
        at = (state.clock % slots).astype(jnp.int32) * width
        put = lambda ring, new: jax.lax.dynamic_update_slice_in_dim(ring, new, at, 0)  # noqa: E731
        ready = jax.tree.map(put, state.ready, self._prepared(key))
        return state._replace(ready=ready, next=(state.next + rank[-1]) % size), taken


def _start(rules: Rules, key: Array, count: int) -> tuple[Array, Array]:
    uniform_key, normal_key = jax.random.split(key)
    uniforms, normals = rules.draws
    uniform = jax.random.uniform(uniform_key, (count, uniforms), jnp.float32)
    return rules.initial_state(uniform, jax.random.normal(normal_key, (count, normals), jnp.float32))


def _where(flags: Array, new: Array, old: Array) -> Array:
    return jnp.where(flags.reshape(flags.shape + (1,) * (old.ndim - 1)), new, old)
