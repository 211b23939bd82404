"""What an environment is: a specification and two pure functions, `reset` and `step`, over a batch of `num_envs`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array
EnvState: TypeAlias = Any


@dataclass(frozen=True, eq=False)
class Box:
    """A box of real (or uint8 pixel) vectors; `low` and `high` have the shape of one element."""

    low: np.ndarray
    high: np.ndarray
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.low.shape

    @property
    def bounded(self) -> bool:
        """True where every coordinate has a finite lower and upper bound."""
        return bool(np.isfinite(self.low).all() and np.isfinite(self.high).all())


def box(low: Any, high: Any, shape: tuple[int, ...] = (), dtype: Any = np.float32) -> Box:
    """A `Box` from scalars or arrays, broadcast to `shape`."""
    shape = np.broadcast_shapes(np.shape(low), np.shape(high), shape)
    full = lambda bound: np.broadcast_to(np.asarray(bound, dtype), shape).copy()  # noqa: E731
    return Box(full(low), full(high), np.dtype(dtype))


@dataclass(frozen=True)
class Discrete:
    """The integers start … start + n − 1; a policy draws 0 … n − 1 and the adapter adds `start`."""

    n: int
    start: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.int32)


Space: TypeAlias = Box | Discrete


@dataclass(frozen=True, eq=False)
class EnvironmentSpec:
    """What is known of an environment before it is stepped.

    Attributes:
        id: The id as a user would type it, without the engine's prefix ("HalfCheetah-v4").
        engine: "jax", "mujoco", "warp", "envpool", "gymnasium", or a suite's name ("brax").
        num_envs: N, how many copies are stepped together.
        obs_space: Space of one observation; float32, or uint8 for pixels.
        action_space: Space of one action as `step` expects it.
        max_episode_steps: Environment steps after which an episode is truncated, or None.
        on_host: True where a simulator outside the compiled program is stepped.
        exact_resume: True where `snapshot` and `restore` continue the very same trajectory.
        action_map: How a drawn action becomes the simulator's: "none", "clip" (clip to [−1, 1], then to the bounds)
            or "tanh" (squash, then to the bounds). Set by `wrappers.rescale_actions`.
        control_bounds: The simulator's own Box of actions, before the action map; None for Discrete.
        frames: Observations that `wrappers.frame_stack` joined into one.
        obs_clip: Bound that `wrappers.clip_obs` put on every coordinate of an observation, or None.
        staggered: True where first episodes are cut short at different times (`first_elapsed`).
        dt: Seconds of simulated time per step, where the simulator has time.
        obs_names, action_names: Names of the coordinates, where the simulator has them.
        versions: Library versions that decide the physics, by name.
    """

    id: str
    engine: str
    num_envs: int
    obs_space: Box
    action_space: Space
    max_episode_steps: int | None = None
    on_host: bool = False
    exact_resume: bool = True
    action_map: str = "none"
    control_bounds: Box | None = None
    frames: int = 1
    obs_clip: float | None = None
    staggered: bool = False
    dt: float | None = None
    obs_names: tuple[str, ...] = ()
    action_names: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


def first_elapsed(num_envs: int, max_episode_steps: int) -> np.ndarray:
    """Steps that each copy's first episode counts as taken, so that the ends by the time limit are spread evenly.

    Copies that begin together and seldom fail reach the limit together, episode after episode: every batch is then of
    one stretch of the episode, and the policy is pulled from one to the next. Copy i counts from the i-th number of
    the golden ratio's sequence, which spreads any number of copies evenly; copy 0 from 0.

    Returns:
        int32 [N], each below `max_episode_steps`.
    """
    golden = (5**0.5 - 1) / 2
    return (np.arange(num_envs) * golden % 1.0 * max_episode_steps).astype(np.int32)


class Step(NamedTuple):
    """What one batched step returns; every row stands for one of the N environments."""

    obs: Array  # the observation to act on next: the first of a new episode where one has just ended   [N, *obs]
    final_obs: Array  # s_{t+1} BEFORE any reset; equals `obs` where nothing ended                      [N, *obs]
    reward: Array  # r_{t+1}, float32, unscaled                                                         [N]
    terminated: Array  # bool: the MDP ended                                                            [N]
    truncated: Array  # bool: a limit cut the episode                                                   [N]
    valid: Array  # bool: False for a dummy reset row (its numbers mean nothing)                        [N]


class Environment(NamedTuple):
    """A batch of N environments that reset themselves: `step` never needs a `reset` in between.

    `snapshot(state)` gives everything needed to continue as a flat dict of arrays, and `restore(arrays)` the state
    back; for a host simulator whose state cannot be read, `spec.exact_resume` is False and `restore` resets from the
    seeds it was given. `close` frees worker processes and threads. `metrics(state)` gives what the simulator counts,
    such as worlds that became unstable, as scalars by the names under which they are logged.
    """

    spec: EnvironmentSpec
    reset: Callable[[Array], tuple[EnvState, Array]]
    step: Callable[[EnvState, Array], tuple[EnvState, Step]]
    snapshot: Callable[[EnvState], dict[str, np.ndarray]]
    restore: Callable[[Mapping[str, np.ndarray], EnvState], EnvState]  # (arrays, a state of the right structure)
    close: Callable[[], None] = lambda: None
    metrics: Callable[[EnvState], dict[str, Array]] = lambda state: {}


class EnvironmentFailure(RuntimeError):
    """A simulator raised, died or returned nonsense; the message names the environment, its seed and the cause."""


class HostSimulator(Protocol):
    """A vectorised simulator outside the compiled program (MuJoCo's C engine, EnvPool, Gymnasium's workers).

    All arrays are NumPy; `reset` returns [N, *obs] and `step` a `Step` of NumPy arrays with the dtypes of the spec
    (float32 or uint8 observations, float32 reward, bool flags). Both may reuse their buffers: the bridge copies.
    `step` resets the environments that ended (same-step autoreset) or, where the simulator insists, returns dummy
    rows with valid=False. Discrete actions arrive as 0 … n − 1: a simulator that counts from another `start` adds it.
    """

    spec: EnvironmentSpec

    def reset(self, seed: int) -> np.ndarray: ...
    def step(self, action: np.ndarray) -> Any: ...
    def snapshot(self) -> dict[str, np.ndarray]: ...
    def restore(self, arrays: Mapping[str, np.ndarray]) -> None: ...
    def close(self) -> None: ...
