"""What one seed among many leaves behind: the same folder as a run of its own."""

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from policy_gradients.environments.base import Environment
from policy_gradients.training.config import Experiment, save_experiment
from policy_gradients.training.loggers import make_loggers
from policy_gradients.training.population import Stage, of_member
from policy_gradients.training.products import write_policy
from policy_gradients.training.saving import alone, save_state
from policy_gradients.training.session import Run
from policy_gradients.training.setup import RunState


class MemberRun:
    """One member's folder, written as training goes on.

    Attributes:
        experiment: Its settings, with its own seed and numbers.
        path: Its folder.
        lost: True from where it met numbers that are not finite; nothing is written from then on.
        result: Its latest metrics by name, evaluations among them.
    """

    def __init__(self, experiment: Experiment, path: Path, env: Environment, *, exportable: bool) -> None:
        """Makes the folder.

        Args:
            experiment: Its settings.
            path: A folder that is not there yet.
            env: Environments of one member.
            exportable: True where the networks are ours, so that a policy bundle can describe them.
        """
        self.experiment, self.path, self.lost = experiment, path, False
        self.result: dict[str, Any] = {}
        self._env, self._exportable = env, exportable
        self._best, self._saved = -math.inf, -1
        path.mkdir(parents=True)
        self._held = contextlib.ExitStack()
        self._held.enter_context(alone(path))
        save_experiment(experiment, path / "config.yaml")
        self._loggers = make_loggers(experiment, path)
        self._learner: Any = None

    def note(self, at: Stage, i: int, told: Mapping[str, float]) -> None:
        """Logs the update that led to a stage, and keeps the policy of the best evaluation.

        Args:
            at: Where all members stand.
            i: Which of them this is.
            told: What else is known of the update: times, steps, and evaluations where they were due.
        """
        if self.lost:
            return
        metrics = {name: float(values[i]) for name, values in at.metrics.items()} | dict(told)
        metrics["time/iterations"] = at.update
        self._loggers.log(at.update, metrics)
        evaluated = {name: x for name, x in self.result.items() if name.startswith("eval/")}
        self.result = {**evaluated, **metrics}
        score = told.get("eval/mean_reward", math.nan)
        if score > self._best and self.experiment.checkpoint.keep_best:
            self._best = score
            self._write(at, i, told["time/time_elapsed"], "best")
            self._write_policy(of_member(at.learner, i), "policy_best")

    def save(self, at: Stage, i: int, time_elapsed: float) -> None:
        """Writes a checkpoint, unless this update has one already."""
        if not self.lost and self._saved < at.update:
            self._saved = at.update
            self._learner = of_member(at.learner, i)
            self._write(at, i, time_elapsed, None)

    def finish(self, status: str) -> Run:
        """The run, with its policy where it has come to its end."""
        if self.lost:
            status = "diverged"
        elif status == "finished":
            self._write_policy(self._learner, "policy")
        return Run(self.path, {**self.result, "status": status})

    def close(self) -> None:
        """Closes its files, and leaves the folder to others."""
        self._loggers.__exit__(None, None, None)
        self._held.close()

    def _write(self, at: Stage, i: int, time_elapsed: float, name: str | None) -> None:
        state = RunState(of_member(at.learner, i), of_member(at.carry, i))
        save_state(
            self.path, self.experiment, self._env, state, at.update,
            time_elapsed=time_elapsed, best=self._best, name=name,
        )  # fmt: skip

    def _write_policy(self, learner: Any, name: str) -> None:
        if self._exportable:
            write_policy(self.experiment, self.path / name, self._env.spec, learner, self.result)
