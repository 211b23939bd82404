"""Tuning: many runs with other settings each, the hopeless ones stopped early, all of it resumable.

A sweep is a folder: `sweep.yaml` says what is searched, `journal.jsonl` what was found (`training.study`), `best.yaml`
is what to train with.
"""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from policy_gradients import compilation
from policy_gradients.backend import computing_on
from policy_gradients.environments.base import EnvironmentSpec
from policy_gradients.errors import UserError
from policy_gradients.training.config import Experiment, load_mapping, parse_experiment, save_experiment
from policy_gradients.training.placement import settle_backend
from policy_gradients.training.population import Member, moments, train_members
from policy_gradients.training.preset import merge
from policy_gradients.training.saving import alone, quoted
from policy_gradients.training.schema import to_plain
from policy_gradients.training.setup import make_environment
from policy_gradients.training.signals import StopRequests
from policy_gradients.training.space import Space, is_number, nest, read_space, setting, to_plain_space
from policy_gradients.training.study import Ended, Outcome, RunningTrial, Study, Tell, best_of

TUNING_SEEDS = (1000, 1001, 1002, 1003, 1004)
"""The only seeds that trials use, so that no seed of a result has ever been tuned on."""


@dataclass(frozen=True)
class Sweep:
    """A search for better settings.

    Attributes:
        experiment: What every trial starts from; its seed is not used.
        space: What is changed.
        trials: How many settings are tried.
        seeds: How many of the tuning seeds each is tried with.
        parallel: At most so many trials in one program, where that can be.
    """

    experiment: Experiment
    space: Space
    trials: int = 40
    seeds: int = 3
    parallel: int = 8


_COUNTS = ("trials", "seeds", "parallel")


def create_sweep(sweep: Sweep, folder: Path) -> None:
    """Makes the sweep's folder; the same sweep may be there already, with another number of trials.

    Raises:
        UserError: Another sweep, or something else, is there; or the folder cannot be made.
    """
    import yaml

    file = folder / "sweep.yaml"
    if file.is_file():
        if replace(load_sweep(folder), trials=sweep.trials, parallel=sweep.parallel) != sweep:
            raise UserError(
                f"{folder} holds a sweep with other settings; choose another --sweep-dir, or continue that one with "
                f"nothing but --sweep-dir {quoted(folder)}."
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} already exists and is no sweep; choose another --sweep-dir.")
    plain = {name: getattr(sweep, name) for name in _COUNTS}
    plain |= {"space": to_plain_space(sweep.space), "experiment": to_plain(sweep.experiment)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / ".sweep.yaml.partial"
        unfinished.write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")
        unfinished.replace(file)
    except OSError as error:
        raise UserError(f"Cannot make the sweep's folder {folder}: {error.strerror}.") from error


def load_sweep(folder: Path) -> Sweep:
    """The sweep of a folder.

    Raises:
        UserError: There is none, or its file is damaged.
    """
    file = folder / "sweep.yaml"
    plain = load_mapping(file)
    counts: dict[str, Any] = {name: plain.get(name) for name in _COUNTS}
    space, settings = plain.get("space"), plain.get("experiment")
    whole = all(type(count) is int and count > 0 for count in counts.values())
    if not whole or not isinstance(space, Mapping) or not isinstance(settings, Mapping):
        raise UserError(f"{file} is damaged: expected {', '.join(_COUNTS)} from 1 on, a space and an experiment.")
    experiment = parse_experiment(settings, source=str(file))
    return Sweep(experiment, read_space(space, experiment, str(file)), **counts)


def run_sweep(
    sweep: Sweep,
    folder: Path,
    tell: Tell = lambda outcome, best: None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[str, list[Outcome]]:
    """Runs the trials that are missing, and keeps the best settings in `best.yaml`.

    Args:
        sweep: As in the folder.
        folder: The sweep's own, made by `create_sweep`.
        tell: Called with each trial that has come to an end, and the best so far.
        say: Takes a sentence for the user.

    Returns:
        "finished", "interrupted" (Ctrl-C), "terminated" (SIGTERM) or "disconnected" (SIGHUP); and all trials that have
        come to an end.

    Raises:
        UserError: Optuna is missing, JAX must not compile, the environment cannot be made, or another process works on
            this sweep.
        EnvironmentFailure: A simulator failed; its trial is repeated when the sweep is continued.
    """
    compilation.check_allowed()
    with computing_on(sweep.experiment.backend):
        spec = task_spec(sweep.experiment)
        chosen = settle_backend(sweep.experiment, replace(spec, num_envs=sweep.experiment.env.num_envs))
    if chosen.line:
        say(chosen.line)
    width = sweep.parallel if runs_together(sweep, spec) else 1
    with computing_on(chosen.backend), alone(folder), StopRequests() as stop:
        study = Study(folder / "journal.jsonl", sweep.space, tell, warm_up=len(moments(sweep.experiment)) // 4)
        study.begin_with({d.path: setting(sweep.experiment, d.path) for d in sweep.space})
        _keep_best(sweep, study, folder)  # a kill may have come between a trial's end and this
        while (left := sweep.trials - len(study.outcomes())) > 0 and not stop:
            _run_trials(sweep, spec, study.next_trials(min(left, width)), stop)
            _keep_best(sweep, study, folder)
        return stop.status if left > 0 else "finished", study.outcomes()


def task_spec(experiment: Experiment) -> EnvironmentSpec:
    """What a sweep's task is like, of one copy.

    Raises:
        UserError: It cannot be made.
    """
    with computing_on(experiment.backend):
        env = make_environment(experiment, 1)
        env.close()
    return env.spec


def runs_together(sweep: Sweep, spec: EnvironmentSpec) -> bool:
    """Whether trials fit into one program: the environment is in JAX or on Warp, and they differ in numbers only."""
    return not spec.on_host and all(is_number(sweep.experiment, dimension.path) for dimension in sweep.space)


def with_settings(experiment: Experiment, settings: Mapping[tuple[str, ...], Any]) -> Experiment:
    """The experiment with other settings.

    Raises:
        UserError: They do not go together.
    """
    return parse_experiment(merge(to_plain(experiment), *(nest(path, value) for path, value in settings.items())))


def _run_trials(sweep: Sweep, spec: EnvironmentSpec, trials: list[RunningTrial], stop: StopRequests) -> None:
    """Trains trials side by side, to their end or to a signal; a JAX environment's seeds side by side as well."""
    experiments: list[Experiment] = []
    running: list[RunningTrial] = []
    for trial in trials:
        try:
            experiments.append(with_settings(sweep.experiment, trial.settings))
            running.append(trial)
        except UserError as error:  # only together are they wrong: each alone was looked at when the space was read
            trial.end(Ended.INVALID, " ".join(str(error).split()))
    seeds = TUNING_SEEDS[: sweep.seeds]
    for stage in [[seed] for seed in seeds] if spec.on_host else [seeds]:
        members = [Member(_numbers(sweep.space, each), seed) for each in experiments for seed in stage]
        if all(trial.over for trial in running):
            return
        for trial in running:
            trial.begin_stage()
        with closing(train_members(experiments[0], members, stopped=lambda: bool(stop))) as course:
            for returns in course:
                for trial, own in zip(running, returns.reshape(len(running), -1), strict=True):
                    trial.note(own)
                if all(trial.over for trial in running):
                    break
        if stop:
            return
    for trial in running:
        trial.finish()


def _numbers(space: Space, experiment: Experiment) -> dict[str, float]:
    paths = [dimension.path for dimension in space if is_number(experiment, dimension.path)]
    return {path[-1]: setting(experiment, path) for path in paths}


def _keep_best(sweep: Sweep, study: Study, folder: Path) -> None:
    best = best_of(study.outcomes())
    if best is not None:
        save_experiment(with_settings(sweep.experiment, best.settings), folder / "best.yaml")
