"""A few Gymnasium environments stepped one after the other, and what there is to know of them.

Runs inside a worker process, or in the trainer's own where there are no workers. Imports neither JAX nor the parts of
the library that do.
"""

import importlib.metadata
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from policy_gradients.environments.gymnasium import interface
from policy_gradients.environments.gymnasium.buffers import IDLE, Buffers


class SpaceInfo(NamedTuple):
    """A Gymnasium space in plain values."""

    kind: str  # name of its class
    text: str  # as Gymnasium prints it
    shape: tuple[int, ...] = ()
    dtype: str = ""
    low: np.ndarray | None = None  # Box
    high: np.ndarray | None = None  # Box
    n: int = 0  # Discrete
    start: int = 0  # Discrete


class EnvInfo(NamedTuple):
    """What the trainer needs to know of an environment before it is stepped."""

    obs_space: SpaceInfo
    action_space: SpaceInfo
    max_episode_steps: int | None
    dt: float | None  # seconds of simulated time per step
    versions: dict[str, str]


class ChunkPlan(NamedTuple):
    """Which environments a chunk makes, and how."""

    make: str | Callable[..., Any]
    kwargs: Mapping[str, Any]
    max_episode_steps: int | None
    worker: int
    first: int  # index of its first environment among all N
    num_envs: int  # how many it makes


class Chunk:
    """Consecutive ones of the N environments; `attach` gives it the memory that it reads and writes."""

    def __init__(self, plan: ChunkPlan) -> None:
        self.worker, self.first = plan.worker, plan.first
        self.envs = [_make(plan) for _ in range(plan.num_envs)]

    def describe(self) -> EnvInfo:
        """What the first environment says of itself."""
        env = self.envs[0]
        limit = env.spec.max_episode_steps if getattr(env, "spec", None) is not None else None
        dt = getattr(env.unwrapped, "dt", None)
        return EnvInfo(
            _describe_space(interface.space_of(env, "observation_space")),
            _describe_space(interface.space_of(env, "action_space")),
            limit,
            float(dt) if isinstance(dt, int | float) else None,
            _versions(type(env.unwrapped).__module__),
        )

    def attach(self, shared: Buffers) -> None:
        """Takes its rows of the shared memory."""
        rows = slice(self.first, self.first + len(self.envs))
        self.cursor = shared.cursor[self.worker : self.worker + 1]
        self.rows = Buffers(**{name: array[rows] for name, array in shared._asdict().items()})
        space = self.envs[0].action_space
        # A copy, because environments may keep the action they were given; NumPy integers, as `sample` returns them.
        self.start = int(getattr(space, "start", 0))
        self.action_dtype = space.dtype
        # A bound of float64 may have been rounded to a float32 just beyond it, which the environment may refuse.
        self.bounds = (space.low, space.high) if space.dtype == np.float64 else None

    def reset(self) -> None:
        """Resets every environment from its seed in the shared memory."""
        for i, env in enumerate(self.envs):
            self.cursor[0] = self.first + i
            self._write(self.rows.obs, i, interface.reset(env, int(self.rows.seed[i])), "reset")

        self.cursor[0] = IDLE

    def step(self) -> None:
        """Steps every environment with its action, and resets the ones whose episode ended."""
        rows = self.rows
        actions = rows.action.astype(self.action_dtype)
        if self.start:
            actions += self.start
        if self.bounds is not None:
            np.clip(actions, *self.bounds, out=actions)
        for i, env in enumerate(self.envs):
            self.cursor[0] = self.first + i
            obs, rows.reward[i], terminated, truncated = interface.step(env, actions[i])
            if terminated or truncated:
                self._write(rows.final_obs, i, obs, "step")
                self._write(rows.obs, i, interface.reset(env), "reset")
            else:
                self._write(rows.obs, i, obs, "step")
            rows.terminated[i], rows.truncated[i] = terminated, truncated
        self.cursor[0] = IDLE

    def close(self) -> None:
        """Closes every environment, each even where another's `close` raises."""
        for env in self.envs:
            try:
                env.close()
            except Exception as error:
                print(f"An environment raised while it was closed: {error!r}", file=sys.stderr)

    def _write(self, array: np.ndarray, i: int, obs: Any, call: str) -> None:
        obs = np.asarray(obs)
        if obs.shape != array.shape[1:]:
            raise interface.Mistake(
                f"{call} returned an observation of shape {obs.shape}, but the observation space says "
                f"{array.shape[1:]}; make the two agree"
            )
        if array.dtype == np.uint8 and obs.dtype != np.uint8:
            raise interface.Mistake(
                f"{call} returned an observation of dtype {obs.dtype}, but the observation space says uint8"
            )
        array[i] = obs


def _make(plan: ChunkPlan) -> Any:
    import gymnasium

    if isinstance(plan.make, str):
        # Gymnasium's own checker repeats at every step what is checked here.
        options = {"disable_env_checker": True, **plan.kwargs}
        return gymnasium.make(plan.make, max_episode_steps=plan.max_episode_steps, **options)
    env = plan.make(**plan.kwargs)
    if not isinstance(env, gymnasium.Env):
        raise interface.Mistake(f"the callable returned {type(env).__name__}, not a gymnasium.Env")
    if plan.max_episode_steps is not None:
        env = gymnasium.wrappers.TimeLimit(env, plan.max_episode_steps)
    return env


def _describe_space(space: Any) -> SpaceInfo:
    from gymnasium.spaces import Box, Discrete

    if isinstance(space, Box):
        return SpaceInfo("Box", str(space), space.shape, str(space.dtype), space.low, space.high)
    if isinstance(space, Discrete):
        return SpaceInfo("Discrete", str(space), (), str(space.dtype), n=int(space.n), start=int(space.start))
    return SpaceInfo(type(space).__name__, str(space))


def _versions(module: str) -> dict[str, str]:
    """Versions of Gymnasium and of what the environment is made of, where they are installed packages."""
    names = ["gymnasium", module.split(".")[0], *(name for name in ("mujoco",) if name in sys.modules)]
    found = {}
    for name in dict.fromkeys(names):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
