"""Many seeds of one experiment as one program; each leaves a run's folder of its own behind.

The program is the one of `population`: environments and learners of all seeds side by side on one device. A seed draws
what the run of that seed alone draws, so its folder can be resumed, evaluated and exported like any other.
"""

import math
import operator
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from policy_gradients import compilation, processes
from policy_gradients.backend import computing_on
from policy_gradients.environments.base import Environment
from policy_gradients.errors import UserError, suggest
from policy_gradients.estimation.normalization import Count
from policy_gradients.evaluation.statistics import Interval, bootstrap, mean
from policy_gradients.training.calendar import count_updates, is_due
from policy_gradients.training.config import Experiment, validate
from policy_gradients.training.loggers import check_loggers
from policy_gradients.training.member_run import MemberRun
from policy_gradients.training.own_parts import checked_agent, checked_maker
from policy_gradients.training.population import Member, Stage, course, evaluate_members
from policy_gradients.training.products import Evaluation, check_describable, make_curve, make_film
from policy_gradients.training.progress import Progress, make_progress
from policy_gradients.training.saving import new_folder, quoted
from policy_gradients.training.session import Run
from policy_gradients.training.setup import blame, make_agent, make_environment
from policy_gradients.training.signals import StopRequests
from policy_gradients.training.watch import COUNTED, EngineWatch, settle_engine
from policy_gradients.types import ActorCritic


@dataclass(frozen=True)
class SeedRuns:
    """Finished or interrupted runs of many seeds.

    Attributes:
        path: The folder above those of the seeds, with their common learning curve.
        runs: One of each seed; the status in `.result` may also be "diverged".
    """

    path: Path
    runs: tuple[Run, ...]

    @property
    def status(self) -> str:
        """ "finished", "interrupted", "terminated" or "disconnected" for all; "diverged" where no seed came through."""
        known = [run.result["status"] for run in self.runs if run.result["status"] != "diverged"]
        return known[0] if known else "diverged"

    def interval(self) -> Interval | None:
        """The mean over seeds of the last return, with its 95 % bootstrap interval; a diverged seed counts with its
        last. None where a seed has none."""
        scores = [final_return(run.result) for run in self.runs]
        return bootstrap([scores], mean) if np.isfinite(scores).all() else None


def final_return(result: Mapping[str, Any]) -> float:
    """The last mean return: of a deterministic evaluation, or else of the last 100 training episodes; NaN for none."""
    return result.get("eval/mean_reward", result.get("rollout/ep_rew_mean", math.nan))


def train_seeds(
    experiment: Experiment,
    seeds: int | Sequence[int],
    run_dir: Path | str | None = None,
    *,
    numbers: Mapping[str, Sequence[float]] | None = None,
    agent: ActorCritic | None = None,
    make_env: Callable[[int], Environment] | None = None,
) -> SeedRuns:
    """Trains many seeds in one program; each has its folder `seed<seed>` below `run_dir` afterwards.

    A seed that meets numbers that are not finite is named and ends, the others go on. Where `experiment.video` asks for
    a film, it is of the first seed that came to its end.

    Args:
        experiment: What all have in common.
        seeds: The seeds, all different; or how many, from the experiment's own on.
        run_dir: A new or empty folder; None for one under `runs/`.
        numbers: Hyperparameters of type float that differ between the seeds: by name, one number for each seed.
        agent: Networks of your own instead of `experiment.network` (no policy bundles are written then).
        make_env: `num_envs -> Environment` of your own instead of `experiment.env`; it is mapped with `jax.vmap`.

    Raises:
        UserError: Settings are wrong, the simulator is outside the program, or the folder cannot be used.
        EnvironmentFailure: The engine counted too many failures; the last checkpoints are kept.
    """
    validate(experiment)
    check_loggers(experiment)
    with computing_on(experiment.backend):
        return _train(experiment, _chosen(experiment, seeds), run_dir, numbers or {}, agent, make_env)


def _train(
    experiment: Experiment,
    chosen: Sequence[int],
    run_dir: Path | str | None,
    numbers: Mapping[str, Sequence[float]],
    agent: ActorCritic | None,
    make_env: Callable[[int], Environment] | None,
) -> SeedRuns:
    compilation.check_allowed()
    line = ""
    make_env = make_env and checked_maker(make_env)
    if make_env is None:
        all_worlds = replace(experiment, env=replace(experiment.env, num_envs=len(chosen) * experiment.env.num_envs))
        settled, line = settle_engine(all_worlds)
        experiment = replace(experiment, env=replace(experiment.env, engine=settled.env.engine))
    experiments = _experiments(experiment, chosen, numbers)
    make_eval_env = make_env or partial(make_environment, experiment, evaluation=True)
    env = (make_env or partial(make_environment, experiment))(experiment.env.num_envs)
    try:
        _check_together(experiment, env)
        parent = new_folder(experiment, run_dir, f"{len(chosen)}seeds")
        film = experiment.video and agent is None and make_env is None
        session = _Session(experiments, parent, env, agent, make_eval_env, tuple(numbers), film)
        if line:
            session.progress.message(line)
        return session.go()
    finally:
        env.close()


class _Session:
    """One process's work on all seeds: their runs, and where it reports to."""

    def __init__(
        self,
        experiments: Sequence[Experiment],
        parent: Path,
        env: Environment,
        agent: ActorCritic | None,
        make_eval_env: Callable[[int], Environment],
        numbers: Sequence[str],
        film: bool,
    ) -> None:
        self.experiment, self.parent, self.env, self.film = experiments[0], parent, env, film
        self.agent = make_agent(self.experiment, env.spec) if agent is None else checked_agent(agent, env.spec)
        if agent is None:
            check_describable(self.experiment, self.agent, env.spec)
        self.members = [
            Member({name: getattr(e.hyperparameters, name) for name in numbers}, e.seed) for e in experiments
        ]
        self.runs = [MemberRun(e, parent / f"seed{e.seed}", env, exportable=agent is None) for e in experiments]
        self.make_eval_env = make_eval_env
        self.steps_per_update = env.spec.num_envs * self.experiment.hyperparameters.num_steps
        self.updates = count_updates(self.experiment.total_steps, self.steps_per_update)
        total = replace(self.experiment, total_steps=len(self.runs) * self.updates * self.steps_per_update)
        self.progress: Progress = make_progress(total, parent)
        self.watch = EngineWatch(env.spec, self.progress.message)
        self.judge: Evaluation | None = None

    def go(self) -> SeedRuns:
        """Trains to the end or to a signal."""
        try:
            with StopRequests() as stop:
                update = self._loop(stop)
            status = "finished" if update == self.updates else stop.status
            finished = tuple(run.finish(status) for run in self.runs)
            if update < self.updates and status:
                self.progress.message(
                    f"Stopped after update {update} of {self.updates}; continue a seed: policy-gradients resume "
                    f"{quoted(self.runs[0].path)}"
                )
            begun = [run.path for run in self.runs if run.result]
            if begun:
                make_curve(begun, self.parent / "curve.png", self.progress)
            came_through = [run for run in self.runs if status == "finished" and not run.lost]
            if self.film and came_through:  # of one seed, which nobody chose by its return
                make_film(came_through[0].experiment, came_through[0].path, self.progress)
            return SeedRuns(self.parent, finished)
        finally:
            self.progress.close()
            for run in self.runs:
                run.close()
            if self.judge is not None:
                self.judge.env.close()

    def _loop(self, stop: StopRequests) -> int:
        """Every update; returns how many are done, after the last of which all seeds are saved."""
        began = time.perf_counter()
        over = lambda: bool(stop) or all(run.lost for run in self.runs)  # noqa: E731
        stages = course(self.experiment, self.members, self.env, self.agent, self.updates, over)
        at = next(stages)
        compiled, trained = time.perf_counter() - began, 0.0
        while True:
            tick = time.perf_counter()
            following = next(stages, None)
            if following is None:
                break
            trained += time.perf_counter() - tick
            self._note_lost(following)
            at = following
            fps = at.update * self.steps_per_update / trained
            told = {"time/fps": fps, "time/compile": compiled, "time/time_elapsed": time.perf_counter() - began}
            self._report(at, told)
        for i, run in enumerate(self.runs):
            run.save(at, i, time.perf_counter() - began)
        return at.update

    def _report(self, at: Stage, told: Mapping[str, float]) -> None:
        """Metrics of one update to every seed's files, its evaluation and checkpoint where they are due, progress."""
        judged = is_due(at.update, self.updates, self.experiment.evaluation.num_evaluations)
        kept = is_due(at.update, self.updates, self.experiment.checkpoint.num_checkpoints)
        scores = self._evaluate(at) if judged else None
        high, low = jax.device_get(at.learner.step)
        for i, run in enumerate(self.runs):
            taken = {"time/total_timesteps": int(Count(high[i], low[i]))}
            run.note(at, i, {**told, **taken, **(scores[i] if scores else {})})
            if kept:
                run.save(at, i, told["time/time_elapsed"])
        alive = [run.result for run in self.runs if not run.lost]
        steps = at.update * self.steps_per_update * len(self.runs)
        fps = {"time/fps": told["time/fps"] * len(self.runs)}
        self.progress.update(steps, {name: _mean(alive, name) for name in _SHOWN} | fps)
        self.watch({name: sum(result.get(name, 0.0) for result in alive) for name in COUNTED}, steps)

    def _evaluate(self, at: Stage) -> list[dict[str, float]]:
        if self.judge is None:
            self.judge = Evaluation.build(self.experiment, self.agent, self.make_eval_env)
        return evaluate_members(self.judge, self.members, at)

    def _note_lost(self, at: Stage) -> None:
        """Names the seeds that have just met numbers that are not finite."""
        for i, run in enumerate(self.runs):
            if at.lost[i] and not run.lost:
                run.lost = True
                culprit = blame({name: float(values[i]) for name, values in at.metrics.items()})
                self.progress.message(
                    f"Seed {run.experiment.seed} diverged: update {at.update} met numbers that are not finite, first "
                    f"in {culprit}. It ends there; the others go on. Its checkpoints are in {run.path}."
                )


_SHOWN = ("rollout/ep_rew_mean", "eval/mean_reward")
"""What the line of progress tells, as means over seeds."""


def _mean(results: Sequence[Mapping[str, float]], name: str) -> float:
    known = [x for result in results if math.isfinite(x := result.get(name, math.nan))]
    return sum(known) / len(known) if known else math.nan


def _chosen(experiment: Experiment, seeds: int | Sequence[int]) -> list[int]:
    try:
        if isinstance(seeds, Iterable) and not isinstance(seeds, str):
            chosen = [_whole(seed) for seed in seeds]
        elif (count := _whole(seeds)) < 1:
            raise UserError(f"seeds: expected 1 or more of them, got {count}.")
        else:
            chosen = list(range(experiment.seed, experiment.seed + count))
    except TypeError:
        raise UserError(f"seeds: expected how many, or whole numbers, got {seeds!r}.") from None
    if not chosen or len(set(chosen)) < len(chosen):
        raise UserError(f"seeds: expected one or more seeds, all different, got {list(chosen)}.")
    return chosen


def _whole(x: Any) -> int:
    """An int, also from NumPy; `TypeError` for what would have to be rounded or read."""
    if isinstance(x, bool):
        raise TypeError
    return operator.index(x)


def _experiments(
    experiment: Experiment, seeds: Sequence[int], numbers: Mapping[str, Sequence[float]]
) -> list[Experiment]:
    """The experiment of each seed, checked."""
    if not isinstance(numbers, Mapping):
        raise UserError(f"numbers: expected a mapping like {{'gamma': [0.98, 0.99]}}, got {numbers!r}.")
    known = [name for name, value in vars(experiment.hyperparameters).items() if type(value) is float]
    for name, values in numbers.items():
        if name not in known:
            raise UserError(
                f"numbers: {name!r} is no hyperparameter of {experiment.algorithm} that is a number and may differ "
                f"between seeds; these are: {', '.join(known)}.{suggest(name, known)}"
            )
        came = len(values) if _are_numbers(values) else repr(values)
        if came != len(seeds):
            raise UserError(f"numbers: {name} needs one number for each of {len(seeds)} seeds, got {came}.")
    made = []
    for i, seed in enumerate(seeds):
        own: dict[str, Any] = {name: float(values[i]) for name, values in numbers.items()}
        made.append(replace(experiment, seed=seed, hyperparameters=replace(experiment.hyperparameters, **own)))
        validate(made[-1])
    return made


def _are_numbers(values: Any) -> bool:
    return isinstance(values, Sequence | np.ndarray) and all(
        isinstance(x, int | float | np.number) and not isinstance(x, bool) for x in values
    )


def _check_together(experiment: Experiment, env: Environment) -> None:
    if env.spec.on_host:
        raise UserError(
            f"seeds: {env.spec.id} is stepped on the host by the engine {env.spec.engine}, whose seeds cannot share a "
            "program; train them one after another with --seed, or use an environment written in JAX or --engine warp."
        )
    if experiment.devices != 1 or processes.count() > 1:
        came = f"{processes.count()} processes" if processes.count() > 1 else repr(experiment.devices)
        raise UserError(
            f"devices: many seeds in one program use one device, but {came} came; leave --devices and --coordinator "
            "out."
        )
