"""`MujocoSimulator`: episodes of a MuJoCo task in many worlds, on MuJoCo's C engine."""

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from policy_gradients.environments.base import EnvironmentFailure, Step, first_elapsed
from policy_gradients.environments.mujoco.noise import StartNoise
from policy_gradients.environments.mujoco.physics import physics, start_row
from policy_gradients.environments.mujoco.specification import specification
from policy_gradients.environments.mujoco.tasks import Task
from policy_gradients.errors import UserError


class MujocoSimulator:
    """A `HostSimulator` of N worlds that step together and reset themselves, equal to Gymnasium to the last bit.

    A world whose episode ends is reset within the same step: `obs` holds the first observation of its next episode and
    `final_obs` the last of the one that ended. `terminated` and `truncated` may both be true, as in Gymnasium. Actions
    are the simulator's own, in any range: like Gymnasium's, the tasks charge for an action as it is given and MuJoCo
    clips it to its bounds. Observations and rewards are computed in float64 and returned in float32.

    World i of a seed lives alike whatever the number of worlds and threads. `snapshot` and `restore` continue bit for
    bit, in another process too, where the versions in `spec.versions` agree.

    Attributes:
        spec: What is known before the first step.
        qpos: Positions of every world's joints now, to record and to replay with `render_frames`  [N, nq].
    """

    def __init__(
        self,
        task: Task,
        num_envs: int,
        num_threads: int = 0,
        max_episode_steps: int | None = None,
        stagger: bool = False,
    ) -> None:
        """Compile nothing, start threads.

        Args:
            task: The task.
            num_envs: N.
            num_threads: Threads to step worlds in; 0 for one per processor.
            max_episode_steps: Environment steps after which an episode is truncated; None for the task's own.
            stagger: Cut first episodes short at different times (`first_elapsed`).

        Raises:
            UserError: A count is not a whole number in its range.
        """
        _check_count("num_envs", num_envs, 1)
        _check_count("num_threads", num_threads, 0)
        limit = task.max_episode_steps if max_episode_steps is None else max_episode_steps
        _check_count("max_episode_steps", limit, 1)
        self._rules, self._limit = task.rules, limit
        self._physics = physics(task, num_envs, num_threads)
        self._fields, self._start = self._physics.fields, start_row(task.model)
        self._noise = StartNoise(*task.rules.draws)
        self.spec = specification(task, "mujoco", num_envs, limit, on_host=True, staggered=stagger)
        self.qpos = self._fields["qpos"]
        self._seed = 0
        self._elapsed, self._episode = np.zeros(num_envs, np.int32), np.zeros(num_envs, np.int64)
        self._before = np.array(task.rules.measure(self._fields))
        self._allocate(num_envs, len(task.rules.obs_names))

    def _allocate(self, n: int, width: int) -> None:
        """Buffers that `step` returns; observations and rewards in one, so that one product checks them all."""
        self._result, self._zeros = np.zeros(n * (width + 1), np.float32), np.zeros(n * (width + 1), np.float32)
        self._obs, self._reward = self._result[: n * width].reshape(n, width), self._result[n * width :]
        self._final_obs = np.zeros_like(self._obs)
        self._terminated, self._truncated = np.zeros(n, bool), np.zeros(n, bool)
        rest: list[Any] = [self._reward, self._terminated, self._truncated, np.ones(n, bool)]
        same: list[Any] = [self._obs, self._obs]
        ended: list[Any] = [self._obs, self._final_obs]
        self._step, self._step_with_ends = Step(*same, *rest), Step(*ended, *rest)

    def reset(self, seed: int) -> np.ndarray:
        """Start the first episode of a seed in every world; seeds are integers of 64 bits."""
        self._seed = seed & ((1 << 64) - 1)
        self._episode[:] = 0
        self._physics.clear()
        self._begin(np.arange(len(self._episode), dtype=np.int32))
        if self.spec.staggered:
            self._elapsed[:] = first_elapsed(len(self._elapsed), self._limit)
        return self._obs

    @np.errstate(invalid="ignore", over="ignore")  # what is not finite raises below, with its name
    def step(self, action: np.ndarray) -> Step:
        """Advance every world by one environment step.

        Args:
            action: Controls, float32 [N, nu]; the control cost is summed in their own dtype, as Gymnasium does.

        Raises:
            EnvironmentFailure: A world became unstable or an action was not a number; `reset` begins anew.
        """
        self._fields["ctrl"][...] = action
        self._physics.step()
        self._elapsed += 1
        rules, fields = self._rules, self._fields
        after, healthy = rules.measure(fields), rules.healthy(fields)
        self._reward[...] = rules.reward(self._before, after, fields, action, healthy)
        self._before[...] = after
        self._obs[...] = rules.observe(fields)
        np.greater_equal(self._elapsed, self._limit, out=self._truncated)
        if rules.terminates:
            np.logical_not(healthy, out=self._terminated)
        if len(self._physics.unstable()) or self._result.dot(self._zeros) != 0:  # NaN or inf times 0 is NaN
            self._fail()
        if not (np.count_nonzero(self._terminated) or np.count_nonzero(self._truncated)):
            return self._step
        return self._end_episodes()

    def _end_episodes(self) -> Step:
        self._final_obs[...] = self._obs
        worlds = np.flatnonzero(self._terminated | self._truncated).astype(np.int32)
        self._episode[worlds] += 1
        self._begin(worlds)
        return self._step_with_ends

    def _begin(self, worlds: np.ndarray) -> None:
        """Start an episode in some worlds (sorted indices) and write its first observation."""
        draws = self._noise.draw(self._seed, worlds, self._episode[worlds])
        self._physics.state[worlds] = self._start
        self._fields["qpos"][worlds], self._fields["qvel"][worlds] = self._rules.initial_state(*draws)
        self._physics.forward(worlds)
        fields = {name: field[worlds] for name, field in self._fields.items()}
        self._before[worlds] = self._rules.measure(fields)
        self._obs[worlds] = self._rules.observe(fields)
        self._elapsed[worlds] = 0

    def _fail(self) -> NoReturn:
        unstable = self._physics.unstable()
        finite = np.isfinite(self._obs).all(1) & np.isfinite(self._reward)
        world = int(unstable[0]) if len(unstable) else int(np.argmin(finite))
        where = (
            f"environment {world} of {len(finite)} (seed {self._seed}, episode {self._episode[world]}, "
            f"step {self._elapsed[world]})"
        )
        if not np.isfinite(self._fields["ctrl"][world]).all():
            raise EnvironmentFailure(f"{self.spec.id}: {where} was given an action that is not a number.")
        raise EnvironmentFailure(
            f"{self.spec.id}: the simulation of {where} became unstable: MuJoCo met NaN or a huge number, where "
            "Gymnasium would reset the robot in mid-air. Keep actions near their bounds (a rescaling wrapper) or "
            "lower the learning rate."
        )

    def snapshot(self) -> dict[str, np.ndarray]:
        """Everything that decides the future, as arrays: physics, step counters, episode numbers and the seed."""
        return {
            "state": self._physics.state.copy(),
            "before": self._before.copy(),
            "elapsed": self._elapsed.copy(),
            "episode": self._episode.copy(),
            "seed": np.array(self._seed, np.uint64),
        }

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Continue where a snapshot was taken.

        Raises:
            UserError: The snapshot is of another task or another number of worlds.
        """
        targets = {
            "state": self._physics.state,
            "before": self._before,
            "elapsed": self._elapsed,
            "episode": self._episode,
        }
        for name, target in targets.items():
            if name not in arrays or arrays[name].shape != target.shape:
                came = arrays[name].shape if name in arrays else "nothing"
                raise UserError(
                    f"A snapshot of {len(target)} environments {self.spec.id} holds {name!r} of shape {target.shape}, "
                    f"but {came} came: restore it into the task and num_envs that it was taken from."
                )
        for name, target in targets.items():
            target[...] = arrays[name]
        self._seed = int(arrays["seed"])
        self._physics.clear()

    def close(self) -> None:
        """End the threads; the simulator cannot be used afterwards."""
        self._physics.close()


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise UserError(f"{name} is a whole number of {least} or more, but {value!r} came.")
