"""N Gymnasium environments as one host simulator, in worker processes or in this one."""

import os
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, NoReturn, Protocol

import numpy as np

from policy_gradients.environments.base import Discrete, EnvironmentFailure, EnvironmentSpec
from policy_gradients.environments.gymnasium.buffers import IDLE, Buffers, Layout, block_size, buffers
from policy_gradients.environments.gymnasium.chunk import Chunk, ChunkPlan, EnvInfo
from policy_gradients.environments.gymnasium.interface import failure
from policy_gradients.environments.gymnasium.pool import WorkerFailure, WorkerPool
from policy_gradients.environments.gymnasium.spaces import action_space, obs_space
from policy_gradients.environments.gymnasium.worker import summarize
from policy_gradients.environments.simulators import check_finite, derive_seeds, dummy_step, host_step
from policy_gradients.errors import UserError

_BAD_REQUESTS = {"gymnasium.error.Error", "builtins.ImportError"}  # unknown id, missing module or dependency


class _Runner(Protocol):
    """Who steps the environments; failures are `WorkerFailure`."""

    info: EnvInfo

    def attach(self, layout: Layout) -> Buffers: ...
    def reset(self) -> None: ...
    def step(self) -> None: ...
    def close(self) -> Any: ...


class _InProcess:
    """All environments in one chunk, in this process."""

    def __init__(self, plan: ChunkPlan) -> None:
        try:
            self._chunk = Chunk(plan)
            self.info = self._chunk.describe()
        except Exception as error:
            raise WorkerFailure(0, failure(error), summarize(error)) from error

    def attach(self, layout: Layout) -> Buffers:
        shared = buffers(bytearray(block_size(layout)), layout)
        self._chunk.attach(shared)
        return shared

    def reset(self) -> None:
        self._run(self._chunk.reset)

    def step(self) -> None:
        self._run(self._chunk.step)

    def close(self) -> None:
        self._chunk.close()

    def _run(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            raise WorkerFailure(0, failure(error)) from error


class GymnasiumSimulator:
    """A `HostSimulator`; see `make_gymnasium` for the arguments and for what it promises."""

    def __init__(
        self,
        make: str | Callable[..., Any],
        num_envs: int,
        num_workers: int | None,
        max_episode_steps: int | None,
        kwargs: Mapping[str, Any],
    ) -> None:
        self._id = make if isinstance(make, str) else _name(make)
        num_workers = min(num_envs, _default_workers() if num_workers is None else num_workers)
        _check_counts(self._id, num_envs, num_workers, max_episode_steps)
        plans = _plans(make, num_envs, num_workers, max_episode_steps, kwargs)
        self._runner = self._start(plans, num_workers)
        try:
            self.spec = _specification(self._id, num_envs, self._runner.info, max_episode_steps)
            obs, action = self.spec.obs_space, self.spec.action_space
            layout = Layout(num_envs, num_workers, obs.shape, str(obs.dtype), action.shape, str(action.dtype))
            self._buffers = self._runner.attach(layout)
            self._buffers.cursor[:] = IDLE
        except BaseException:
            self._runner.close()
            raise
        self._valid = np.ones(num_envs, bool)
        self._seed, self._num_steps, self._episodes = 0, 0, np.zeros(num_envs, np.int64)
        self._closed = self._new_episodes = False

    def reset(self, seed: int) -> np.ndarray:
        """Resets every environment from its own seed, derived from `seed`."""
        self._seed, self._num_steps = seed, 0
        self._episodes[:] = 0
        return self._start_episodes()

    def step(self, action: np.ndarray) -> Any:
        """Steps every environment once; the first step after a `restore` only brings the new observations."""
        shared = self._buffers
        if self._new_episodes:
            self._new_episodes = False
            return dummy_step(shared.obs)
        shared.action[...] = action
        self._call("step", self._runner.step)
        self._num_steps += 1
        final_obs, ended = shared.obs, shared.terminated | shared.truncated
        if ended.any():
            final_obs = shared.obs.copy()
            final_obs[ended] = shared.final_obs[ended]
            self._episodes += ended
            check_finite(self._id, "step", {"observation": final_obs}, shared.seed)
        check_finite(self._id, "step", {"observation": shared.obs, "reward": shared.reward}, shared.seed)
        return host_step(shared.obs, final_obs, shared.reward, shared.terminated, shared.truncated, self._valid)

    def snapshot(self) -> dict[str, np.ndarray]:
        """What can be saved: the seed, the steps since it was given, and each environment's finished episodes."""
        return {
            "seed": np.uint64(self._seed),
            "num_steps": np.int64(self._num_steps),
            "episodes": self._episodes.copy(),
        }  # type: ignore[dict-item]

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Starts new episodes, from seeds derived from the saved seed and step count."""
        self._seed, self._num_steps = int(arrays["seed"]), int(arrays["num_steps"])
        self._episodes[:] = arrays["episodes"]
        self._start_episodes()
        self._new_episodes = True

    def close(self) -> None:
        """Ends the workers; may be called twice."""
        if not self._closed:
            self._closed = True
            self._runner.close()

    def _start(self, plans: list[ChunkPlan], num_workers: int) -> _Runner:
        try:
            return WorkerPool(plans) if num_workers else _InProcess(plans[0])
        except WorkerFailure as failure:
            classes, message = failure.error or ([], "")
            # A TypeError is also what a wrong option of the environment gives.
            if _BAD_REQUESTS & set(classes) or ("builtins.TypeError" in classes and "argument" in message):
                hint = " (install it, or put its folder on PYTHONPATH)" if "builtins.ImportError" in classes else ""
                raise UserError(f"Cannot make {self._id}: {message}{hint}") from failure
            raise EnvironmentFailure(f"{self._id}: making the environment {failure.report}") from failure

    def _start_episodes(self) -> np.ndarray:
        shared = self._buffers
        shared.seed[:] = derive_seeds(self._seed, self.spec.num_envs, self._num_steps)
        self._new_episodes = False
        self._call("reset", self._runner.reset)
        check_finite(self._id, "reset", {"observation": shared.obs}, shared.seed)
        return shared.obs

    def _call(self, name: str, run: Callable[[], None]) -> None:
        if self._closed:
            raise EnvironmentFailure(f"{self._id}: {name} was called after the environment was closed or had failed.")
        try:
            run()
        except WorkerFailure as failure:
            self.close()
            self._report(name, failure)
        except BaseException:  # an interrupt too: answers that were not read would be taken for the next step's
            self.close()
            raise

    def _report(self, call: str, failure: WorkerFailure) -> NoReturn:
        row = int(self._buffers.cursor[failure.worker])
        if row == IDLE:
            what = f"before {call}, something outside the environments (the system, short of memory?)"
        else:
            what = f"{call} of environment {row} of {self.spec.num_envs} (seed {self._buffers.seed[row]})"
        raise EnvironmentFailure(f"{self._id}: {what} {failure.report}") from failure


def _default_workers() -> int:
    """One per core that this process may use; none where processes cannot inherit pipes (Windows)."""
    if os.name != "posix":
        return 0
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _name(make: Callable[..., Any]) -> str:
    return getattr(make, "__qualname__", None) or _name(getattr(make, "func", type(make)))


def _check_counts(env_id: str, num_envs: int, num_workers: int, max_episode_steps: int | None) -> None:
    for name, value, least in (
        ("num_envs", num_envs, 1),
        ("num_workers", num_workers, 0),
        ("max_episode_steps", 1 if max_episode_steps is None else max_episode_steps, 1),
    ):
        if not isinstance(value, Integral) or value < least:
            raise UserError(f"{env_id}: {name} must be an integer of {least} or more, not {value!r}.")


def _plans(
    make: str | Callable[..., Any],
    num_envs: int,
    num_workers: int,
    max_episode_steps: int | None,
    kwargs: Mapping[str, Any],
) -> list[ChunkPlan]:
    """Contiguous chunks whose sizes differ by one at most."""
    chunks = np.array_split(np.arange(num_envs), max(1, num_workers))
    return [
        ChunkPlan(make, dict(kwargs), max_episode_steps, w, int(chunk[0]), len(chunk)) for w, chunk in enumerate(chunks)
    ]


def _specification(env_id: str, num_envs: int, info: EnvInfo, max_episode_steps: int | None) -> EnvironmentSpec:
    actions = action_space(env_id, info.action_space)
    return EnvironmentSpec(
        id=env_id,
        engine="gymnasium",
        num_envs=num_envs,
        obs_space=obs_space(env_id, info.obs_space),
        action_space=actions,
        max_episode_steps=info.max_episode_steps if max_episode_steps is None else max_episode_steps,
        on_host=True,
        exact_resume=False,
        control_bounds=None if isinstance(actions, Discrete) else actions,
        dt=info.dt,
        versions=info.versions,
    )
