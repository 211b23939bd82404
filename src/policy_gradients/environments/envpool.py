"""EnvPool's simulators (Atari, DeepMind Control, Box2D and more), batched in C++ threads."""

import importlib.metadata
import importlib.util
import math
import warnings
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from policy_gradients.environments.base import (
    Box,
    Discrete,
    Environment,
    EnvironmentFailure,
    EnvironmentSpec,
    Space,
    box,
)
from policy_gradients.environments.host import host_environment
from policy_gradients.environments.simulators import check_finite, derive_seeds, dummy_step, host_step
from policy_gradients.environments.wrappers import channels_last
from policy_gradients.errors import UserError, suggest

_NO_LIMIT = 2**31 - 1  # EnvPool's way to say that episodes have no limit
_BEYOND = 1e30  # a bound of this size stands for none
_ATARI_TRAINING = {"episodic_life": True, "reward_clip": True}  # no other family has both options
_RESERVED = ("num_envs", "batch_size", "seed", "env_seed", "max_num_players")


def make_envpool(
    id: str,
    num_envs: int,
    num_threads: int = 0,
    max_episode_steps: int | None = None,
    obs_keys: Iterable[str] | None = None,
    **kwargs: Any,
) -> Environment:
    """A single-player EnvPool task as `num_envs` copies.

    EnvPool resets a copy in the step *after* the one that ended its episode: that step ignores the action and only
    brings the first observation, so its row comes with `valid` False. A simulator's state cannot be read:
    `spec.exact_resume` is False, `restore` starts new episodes, from seeds derived from the saved seed and step count,
    and the first step after it is a dummy for all copies.

    Images come with the channels last. An observation of several parts (DeepMind Control) becomes one vector, in
    EnvPool's order. For Atari the defaults are the field's for training (Mnih et al. 2015): the loss of a life ends
    an episode (`episodic_life`), rewards are clipped to their sign (`reward_clip`), 4 frames are stacked
    (`stack_num`), each action lasts 4 frames (`frame_skip`). Scores are reported with `episodic_life=False` and
    `reward_clip=False`.

    Args:
        id: One of `envpool_ids()`.
        num_envs: N, copies stepped together.
        num_threads: C++ threads; 0 for one per core (at most N).
        max_episode_steps: Environment steps after which an episode is truncated; None for the task's limit.
        obs_keys: Which parts of an observation with several parts to see; None for all.
        **kwargs: The task's own options, as in `envpool.make`.

    Raises:
        UserError: EnvPool is not installed, an unknown id or option, several players, or unsupported spaces.
    """
    limit = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
    options = {"num_threads": num_threads, **limit, **kwargs}
    return channels_last(host_environment(EnvPoolSimulator(id, num_envs, options, obs_keys)))


def installed() -> bool:
    """True where EnvPool can be imported, without importing it."""
    return importlib.util.find_spec("envpool") is not None


@lru_cache(maxsize=1)
def envpool_ids() -> frozenset[str]:
    """The ids that EnvPool knows. The first call imports it, which takes a second or more.

    Raises:
        UserError: EnvPool is not installed, or a system library that it needs is not.
    """
    return frozenset(_envpool().list_all_envs())


def task_options(id: str) -> Mapping[str, Any]:
    """The options of a task with their defaults; no simulator is started.

    Raises:
        UserError: EnvPool is not installed, or does not know the id.
    """
    return _task_spec(id, {}).config._asdict()


class EnvPoolSimulator:
    """A `HostSimulator` over EnvPool; the pool is made at the first `reset`, since its seeds are fixed when made."""

    def __init__(self, id: str, num_envs: int, options: Mapping[str, Any], obs_keys: Iterable[str] | None) -> None:
        known = task_options(id)
        _check_options(id, known, options)
        if _ATARI_TRAINING.keys() <= known.keys():
            options = {**_ATARI_TRAINING, **options}
        self._options = {**options, "num_envs": num_envs}
        task = _task_spec(id, self._options)
        if task.config.max_num_players != 1:
            raise UserError(
                f"{id} is for {task.config.max_num_players} players; only single-player tasks are supported."
            )
        parts = _obs_parts(id, task, obs_keys)
        self._keys = tuple(parts)
        self.spec = _specification(id, task, parts)
        actions = self.spec.action_space
        self._pool: Any = None
        self._first_action = actions.dtype.type(actions.start if isinstance(actions, Discrete) else 0)
        self._closed = self._new_episodes = False
        self._seed = self._num_steps = 0
        self._seeds = np.zeros(num_envs, np.int64)
        self._obs = np.zeros((num_envs, *self.spec.obs_space.shape), self.spec.obs_space.dtype)
        self._ended = np.zeros(num_envs, bool)

    def reset(self, seed: int) -> np.ndarray:
        """Makes the pool anew, each copy with its own seed, derived from `seed`."""
        self._seed, self._num_steps = seed, 0
        return self._start_episodes()

    def step(self, action: np.ndarray) -> Any:
        """Steps every copy; the copies that ended in the step before are reset instead (`valid` is False)."""
        if self._pool is None:
            raise EnvironmentFailure(f"{self.spec.id}: step was called before reset or after close.")
        if self._new_episodes:
            self._new_episodes = False
            return dummy_step(self._obs)
        obs, reward, terminated, truncated, info = self._pool.step(action + self._first_action)
        # EnvPool calls every end on the last step truncated; some tasks also say what the game itself thought.
        terminated = terminated | (truncated & _game_over(info, truncated))
        valid, obs = ~self._ended, self._joined(obs)
        self._obs, self._ended = obs, (terminated | truncated) & valid
        self._num_steps += 1
        check_finite(self.spec.id, "step", {"observation": obs, "reward": reward}, self._seeds)
        return host_step(obs, obs, reward.astype(np.float32), terminated & valid, truncated & valid, valid)

    def snapshot(self) -> dict[str, np.ndarray]:
        """What can be saved: the seed, and the steps since it was given."""
        return {"seed": np.uint64(self._seed), "num_steps": np.int64(self._num_steps)}  # type: ignore[dict-item]

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Starts new episodes, from seeds derived from the saved seed and step count."""
        self._seed, self._num_steps = int(arrays["seed"]), int(arrays["num_steps"])
        self._start_episodes()
        self._new_episodes = True

    def close(self) -> None:
        """Ends the pool's threads."""
        self._pool, self._closed = None, True

    def _start_episodes(self) -> np.ndarray:
        if self._closed:
            raise EnvironmentFailure(f"{self.spec.id}: reset was called after close.")
        self._seeds = derive_seeds(self._seed, self.spec.num_envs, self._num_steps)
        self._pool = None  # the old threads end before the new ones start
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own Gymnasium spaces round bounds that are not used here
            self._pool = _envpool().make_gymnasium(self.spec.id, seed=self._seeds.tolist(), **self._options)
            self._obs = self._joined(self._pool.reset()[0])
        self._ended, self._new_episodes = np.zeros(self.spec.num_envs, bool), False
        check_finite(self.spec.id, "reset", {"observation": self._obs}, self._seeds)
        return self._obs

    def _joined(self, obs: Any) -> np.ndarray:
        """The parts of an observation as one array with the shape and dtype of the spec."""
        space = self.spec.obs_space
        if isinstance(obs, np.ndarray):
            return obs.reshape(-1, *space.shape).astype(space.dtype, copy=False)
        parts = (_part(obs, key) for key in self._keys)
        flat = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
        return flat.reshape(-1, *space.shape).astype(space.dtype, copy=False)


def _envpool() -> Any:
    if not installed():
        raise UserError('EnvPool is not installed; install it with: pip install "policy-gradients[envpool]"')
    try:
        import envpool
    except ImportError as error:
        raise UserError(
            f"EnvPool is installed but cannot be imported ({error}); on Debian its system libraries come with: "
            f"apt-get install libegl1"
        ) from error
    return envpool


def _task_spec(id: str, options: Mapping[str, Any]) -> Any:
    if id not in envpool_ids():
        raise UserError(f"EnvPool knows no task {id!r}.{suggest(id, envpool_ids())}")
    try:
        return _envpool().make_spec(id, **options)
    except Exception as error:  # ImportError for a system library; type and assertion errors for options
        raise UserError(f"EnvPool cannot make {id}: {error}") from error


def _specification(id: str, task: Any, parts: Mapping[str, Any]) -> EnvironmentSpec:
    actions, limit = _action_space(id, task), task.config.max_episode_steps
    return EnvironmentSpec(
        id=id,
        engine="envpool",
        num_envs=task.config.num_envs,
        obs_space=_obs_space(id, parts),
        action_space=actions,
        max_episode_steps=None if limit >= _NO_LIMIT else int(limit),
        on_host=True,
        exact_resume=False,
        control_bounds=None if isinstance(actions, Discrete) else actions,
        versions={"envpool": importlib.metadata.version("envpool")},
    )


def _check_options(id: str, known: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    for name in options:
        if name in _RESERVED or name not in known:
            free = sorted(set(known) - set(_RESERVED))
            raise UserError(f"{id} has no option {name!r}; it has {', '.join(free)}.{suggest(name, free)}")


def _obs_parts(id: str, task: Any, obs_keys: Iterable[str] | None) -> dict[str, Any]:
    """The array specifications of the observation's parts, by dotted name; '' for an observation in one piece."""
    parts = {name[4:]: part for name, part in task.state_array_spec.items() if name.partition(":")[0] == "obs"}
    if obs_keys is None:
        return parts
    wanted = tuple(obs_keys)
    unknown = [key for key in wanted if key not in parts]
    if unknown or not wanted:
        raise UserError(f"{id} has no observation {unknown}; obs_keys must name some of {', '.join(parts) or 'none'}.")
    return {key: parts[key] for key in wanted}


def _obs_space(id: str, parts: Mapping[str, Any]) -> Box:
    kinds = {np.dtype(part.dtype) for part in parts.values()}
    pixels = np.dtype(np.uint8) in kinds
    if pixels and len(parts) > 1:
        raise UserError(
            f"{id} observes bytes beside other parts ({', '.join(parts)}); choose with obs_keys, e.g. one image."
        )
    boxes = [_box(part, np.uint8 if pixels else np.float32) for part in parts.values()]
    if len(parts) == 1:
        only = next(iter(parts.values()))
        if np.dtype(only.dtype).kind in "iu" and not pixels and boxes[0].shape == ():
            raise UserError(f"{id} observes one integer, which only a table could learn from; choose another task.")
        return boxes[0]
    low, high = (np.concatenate([np.ravel(getattr(b, side)) for b in boxes]) for side in ("low", "high"))
    return box(low, high)


def _action_space(id: str, task: Any) -> Space:
    (name, action), *others = [
        (name, spec) for name, spec in task.action_array_spec.items() if name.split(".")[-1] != "env_id"
    ]
    shape = _shape(action)
    if others:
        raise UserError(
            f"{id} takes several actions at once ({name}, {', '.join(n for n, _ in others)}): not supported."
        )
    if np.dtype(action.dtype).kind == "f":
        return _box(action, np.float32)
    if math.prod(shape) != 1:
        raise UserError(f"{id} takes {math.prod(shape)} discrete actions at once; only Box and Discrete are supported.")
    low, high = int(np.min(action.minimum)), int(np.max(action.maximum))
    return Discrete(high - low + 1, low)


def _shape(spec: Any) -> tuple[int, ...]:
    """The shape of one copy's array; a leading −1 stands for the players."""
    return tuple(spec.shape[1:] if spec.shape and spec.shape[0] == -1 else spec.shape)


def _box(spec: Any, dtype: Any) -> Box:
    """A Box where EnvPool's bounds mean something; some specs hold a type's least positive or largest number."""
    low, high = (np.asarray(bound, np.float64) for bound in (spec.minimum, spec.maximum))
    if np.dtype(dtype).kind == "f":
        tiny = np.abs(low) <= np.finfo(np.float32).tiny
        low = np.where((low <= -_BEYOND) | (tiny & (high >= _BEYOND)), -np.inf, low)
        high = np.where(high >= _BEYOND, np.inf, high)
    return box(low, high, _shape(spec), dtype)


def _part(obs: Any, key: str) -> np.ndarray:
    for name in key.split("."):
        obs = obs[name]
    return obs


def _game_over(info: Mapping[str, Any], like: np.ndarray) -> np.ndarray:
    flag = info.get("terminated")
    return np.zeros_like(like) if flag is None else np.asarray(flag).reshape(like.shape).astype(bool)
