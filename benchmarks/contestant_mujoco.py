"""MuJoCo's C engine alone as a contestant: random actions, no observations, no learning.

Settings: {"env": Gymnasium's id, "num_envs", "threads", "engine"}, where the engine is "batch" (`mujoco.batch`) or
"contacts" (threads that also compute the contact forces that Humanoid observes, as our environment does).
"""

from typing import Any

import numpy as np
from contest import measure_for, serve
from report import versions

BLOCK = 64
"""Batched steps between two looks at the clock."""

TIME_LIMIT = 1000


class Batch:
    """`mujoco.batch` as it comes."""

    def __init__(self, task: Any, num_envs: int, threads: int) -> None:
        from mujoco import batch

        self._batch, self._skip = batch.Batch(task.model, num_envs, threads), task.frame_skip
        self.state = self._batch.state
        self.fields = {name: self._batch.bind(name) for name in ("qpos", "qvel", "ctrl")}

    def step(self) -> None:
        """One environment step of every world."""
        self._batch.step(nstep=self._skip)

    def forward(self, worlds: np.ndarray) -> None:
        """Computes what follows from the positions of some worlds."""
        self._batch.forward(worlds)


class Worlds:
    """An engine and the ends of the task's episodes, without which a fallen robot would be simulated for ever."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from policy_gradients.environments.mujoco.physics import ThreadedPhysics, start_row
        from policy_gradients.environments.mujoco.tasks import load_task

        task, n = load_task(settings["env"]), settings["num_envs"]
        kind = {"batch": Batch, "contacts": ThreadedPhysics}[settings["engine"]]
        self._engine: Any = kind(task, n, settings["threads"])
        self._row, self._rules = start_row(task.model), task.rules
        self.bounds = task.model.actuator_ctrlrange.T
        self._age, self._random = np.zeros(n, np.int64), np.random.default_rng(0)
        self._begin(np.arange(n, dtype=np.int32))

    def step(self, action: np.ndarray) -> None:
        """One environment step; worlds that fell or reached the time limit begin anew."""
        self._engine.fields["ctrl"][...] = action
        self._engine.step()
        self._age += 1
        ended = self._age >= TIME_LIMIT
        if self._rules.terminates:
            ended |= ~self._rules.healthy(self._engine.fields)
        if ended.any():
            self._begin(np.flatnonzero(ended).astype(np.int32))

    def _begin(self, worlds: np.ndarray) -> None:
        uniform, normal = self._rules.draws
        draws = self._random.random((len(worlds), uniform)), self._random.standard_normal((len(worlds), normal))
        fields = self._engine.fields
        self._engine.state[worlds] = self._row
        fields["qpos"][worlds], fields["qvel"][worlds] = self._rules.initial_state(*draws)
        self._engine.forward(worlds)
        self._age[worlds] = 0


def untrained_actions(low: np.ndarray, high: np.ndarray, num_envs: int) -> np.ndarray:
    """Actions [64, N, A] like those of a policy that knows nothing: N(0, 1), clipped, then scaled to the bounds."""
    drawn = np.random.default_rng(1).standard_normal((BLOCK, num_envs, len(low))).clip(-1, 1)
    return low + (drawn + 1) / 2 * (high - low)


def start(settings: dict[str, Any]) -> tuple[dict, dict]:
    """Builds the engine and steps it once through its actions to warm up."""
    worlds = Worlds(settings)
    actions = untrained_actions(*worlds.bounds, settings["num_envs"])

    def work() -> int:
        for action in actions:
            worlds.step(action)
        return BLOCK * settings["num_envs"]

    work()
    return {"versions": versions(("mujoco", "numpy"))}, {"measure": lambda seconds: measure_for(seconds, work)}


if __name__ == "__main__":
    serve(start)
