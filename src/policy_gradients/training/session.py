"""One process's work on a run: plain Python around one compiled iteration.

Progress, logging, evaluation, checkpoints, Ctrl-C and early stopping live here; nothing of them is in the program. The
seed's key is split into four streams, and update u draws from `fold_in(stream, u)`, so a resumed run draws what the
uninterrupted one drew.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from policy_gradients import processes
from policy_gradients.environments.base import Environment, EnvironmentFailure
from policy_gradients.training import checkpoint as ckpt
from policy_gradients.training.calendar import count_updates, is_due, until_due
from policy_gradients.training.config import Experiment, load_experiment, save_experiment
from policy_gradients.training.devices import on_one_device
from policy_gradients.training.loggers import Loggers, make_loggers
from policy_gradients.training.products import (
    Evaluation,
    check_describable,
    lacks_film,
    make_film,
    make_pictures,
    write_policy,
)
from policy_gradients.training.program import Program
from policy_gradients.training.progress import Progress, SilentProgress, make_progress
from policy_gradients.training.saving import best_of, is_complete, quoted, restore_state, save_state
from policy_gradients.training.setup import Parts, RunState, blame, initial_state, make_environment
from policy_gradients.training.signals import STATUSES, StopRequests
from policy_gradients.training.watch import EngineWatch
from policy_gradients.types import ActorCritic, LearnerState


class TrainingDiverged(RuntimeError):
    """A loss, gradient, observation or reward was not finite; the message names the culprit and the last good state."""


@dataclass(frozen=True)
class Run:
    """A finished or interrupted run.

    Attributes:
        path: Its folder: config.yaml, metrics.jsonl, checkpoints/, policy/, curve.png, video.mp4.
        result: Final metrics by name, and "status": "finished", "interrupted" (Ctrl-C), "terminated" (SIGTERM) or
            "disconnected" (SIGHUP: the terminal was closed).
    """

    path: Path
    result: dict[str, Any] = field(default_factory=dict)


class Session:
    """One process's work on a run: its parts, and where it reports to."""

    def __init__(
        self,
        experiment: Experiment,
        run: Path,
        parts: Parts,
        agent: ActorCritic | None,
        make_env: Callable[[int], Environment] | None,
    ) -> None:
        self.experiment, self.run, self.parts = experiment, run, parts
        self.make_eval_env = make_env or partial(make_environment, experiment, evaluation=True)
        self.exportable = agent is None  # a bundle describes our networks only
        if self.exportable:
            check_describable(experiment, parts.agent, parts.env.spec)
        self.film = experiment.video and self.exportable and make_env is None
        self.steps_per_update = parts.env.spec.num_envs * experiment.hyperparameters.num_steps
        self.updates = count_updates(experiment.total_steps, self.steps_per_update)
        self.init_key, self.key, self.eval_key, self.restart_key = jax.random.split(jax.random.key(experiment.seed), 4)
        self.progress: Progress = make_progress(experiment, run) if processes.leads() else SilentProgress()
        self.watch = EngineWatch(parts.env.spec, self.progress.message)
        self.judge: Evaluation | None = None
        self.best = -math.inf
        self.earlier, self.began = 0.0, time.perf_counter()

    def go(self, start: int, saved: tuple[dict[str, np.ndarray], dict[str, Any]] | None) -> Run:
        """Runs from update `start` to the end or to a signal."""
        try:
            state = initial_state(self.parts, self.init_key)
            if saved is None:
                self._save(state, 0)
            else:
                self.earlier, self.best = saved[1]["time_elapsed"], best_of(saved[1])
                state = restore_state(self.parts, state, saved, self.run, self.restart_key, self.progress.message)
            if saved and start >= self.updates and is_complete(self.run, saved[1]):  # else its products are missing
                self.progress.message("This run is finished; give --total-steps for a longer one.")
                if self.film and processes.leads() and lacks_film(self.run):
                    make_film(self.experiment, self.run, self.progress)
                processes.wait()
                return Run(self.run, {"status": "finished"})
            with StopRequests() as stop, make_loggers(self.experiment, self.run, start) as loggers:
                self._keep_settings()
                state, update, metrics = self._loop(state, start, loggers, stop)
            if update < self.updates:
                self.progress.message(
                    f"Stopped after update {update} of {self.updates}; continue: policy-gradients resume "
                    f"{quoted(self.run)}"
                )
                return Run(self.run, {**metrics, "status": stop.status})
            self._write_policy(on_one_device(state.learner), metrics, "policy")
            if processes.leads():
                make_pictures(self.experiment, self.run, self.progress, film=self.film)
            processes.wait()  # at their exit JAX would have the others wait five minutes at most
            return Run(self.run, {**metrics, "status": "finished"})
        except processes.PeerLost as lost:
            lost.add_note(
                f"The last checkpoint is in {self.run / 'checkpoints'}; start all processes again, each with: "
                f"policy-gradients resume {quoted(self.run)}"
            )
            raise
        finally:
            self.progress.close()
            if self.judge is not None:
                self.judge.env.close()

    def _keep_settings(self) -> None:
        """Writes what this start changes of the settings, once nothing can refuse it any more."""
        file = self.run / "config.yaml"
        if processes.leads() and load_experiment(file) != self.experiment:
            save_experiment(self.experiment, file)

    def _loop(
        self, state: RunState, start: int, loggers: Loggers, stop: StopRequests
    ) -> tuple[RunState, int, dict[str, float]]:
        """Updates `start` … until the last one or a stop request; returns how many are done."""
        metrics: dict[str, float] = {}
        update, saved, trained = start, start, 0.0
        program = Program(self.parts, self.steps_per_update, self.key, state)
        while update < self.updates:
            count, asked_to_stop = self._agree(program.suggested, update, stop.status)
            if asked_to_stop:
                stop.status = asked_to_stop
                break
            tick = time.perf_counter()
            state, rows = self._iterate(program, state, update, count)
            trained += time.perf_counter() - tick
            rate = (update + len(rows) - start) * self.steps_per_update / trained
            for metrics in rows:
                update += 1
                metrics |= {"time/iterations": update, "time/fps": rate, "time/compile": program.compile_seconds}
                if is_due(update, self.updates, self.experiment.evaluation.num_evaluations):
                    metrics |= self._evaluate(state, update)
                metrics["time/time_elapsed"] = self._time_elapsed()
                loggers.log(update, metrics)
                self.progress.update(int(metrics["time/total_timesteps"]), metrics)
            if is_due(update, self.updates, self.experiment.checkpoint.num_checkpoints):
                saved = update
                self._save(state, update)
        if saved < update:  # stopped by a signal, or no checkpoint was due at the end
            self._save(state, update)
        return state, update, metrics

    def _agree(self, suggested: int, update: int, status: str) -> tuple[int, str]:
        """How many updates the next call runs, up to the next at whose end something is due, and whether to stop.

        Of several processes the one that wants the fewest decides, and one that was asked to stop.
        """
        times = self.experiment.evaluation.num_evaluations, self.experiment.checkpoint.num_checkpoints
        count = until_due(update, self.updates, times, suggested)
        wishes = processes.gather(np.array([count, STATUSES.index(status)]))
        return int(wishes[:, 0].min()), STATUSES[wishes[:, 1].max()]

    def _iterate(
        self, program: Program, state: RunState, update: int, count: int
    ) -> tuple[RunState, list[dict[str, float]]]:
        """One call, and the metrics of its updates."""
        try:
            state, rows = program(state, update, count)
        except EnvironmentFailure as failure:
            if not self.parts.env.spec.exact_resume and processes.count() == 1:
                self._save(state, update)  # nothing of the simulator is in it, so what was learnt is kept
            failure.add_note(
                f"What was learnt is kept in {self._latest()}; continue: policy-gradients resume {quoted(self.run)}"
            )
            raise
        for number, row in enumerate(rows, update):
            if any(value > 0 for name, value in row.items() if "/nonfinite" in name):
                raise self._diverged(row, number)
            self.watch(row, int(row["time/total_timesteps"]))
        return state, rows

    def _latest(self) -> Path:
        return ckpt.latest_checkpoint(self.run) if processes.leads() else self.run / "checkpoints"

    def _time_elapsed(self) -> float:
        return self.earlier + time.perf_counter() - self.began

    def _evaluate(self, state: RunState, update: int) -> dict[str, float]:
        if self.judge is None:
            self.judge = Evaluation.build(self.experiment, self.parts.agent, self.make_eval_env)
        learner = on_one_device(state.learner)
        metrics = self.judge(jax.random.fold_in(self.eval_key, update), learner.params, learner.statistics)
        score = float(processes.gather(np.array(metrics.get("eval/mean_reward", math.nan)))[0])
        if score > self.best and self.experiment.checkpoint.keep_best:
            self.best = score
            self._save(state._replace(learner=learner), update, name="best")
            self._write_policy(learner, metrics, "policy_best")
        return metrics

    def _write_policy(self, learner: LearnerState, metrics: dict[str, float], name: str) -> None:
        if self.exportable and processes.leads():
            write_policy(self.experiment, self.run / name, self.parts.env.spec, learner, metrics)

    def _save(self, state: RunState, update: int, name: str | None = None) -> None:
        save_state(
            self.run, self.experiment, self.parts.env, state, update,
            time_elapsed=self._time_elapsed(), best=self.best, name=name,
        )  # fmt: skip

    def _diverged(self, metrics: dict[str, float], update: int) -> TrainingDiverged:
        return TrainingDiverged(
            f"Update {update + 1} met numbers that are not finite, first in {blame(metrics)}. The last good checkpoint "
            f"is {self._latest()}; lower the learning rate or look at the environment, then resume."
        )
