"""`policy-gradients sweep`: tune an algorithm's settings on a task."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy_gradients.cli.runtime import check_back_end, exit_code, start_jax
from policy_gradients.errors import UserError

if TYPE_CHECKING:
    from policy_gradients.cli.flags import Request
    from policy_gradients.training.config import Experiment
    from policy_gradients.training.study import Outcome
    from policy_gradients.training.sweep import Sweep

OPTIONS = {
    "--config": "FILE     YAML with settings that every trial has; flags override it.",
    "--preset": "NAME     Tuned settings to start from: auto (the environment's, the default), none, or a name.",
    "--space": "FILE      YAML with what is changed; default the algorithm's own space.",
    "--trials": "N        How many settings are tried (40).",
    "--seeds": "N         With how many of the tuning seeds 1000–1004 each is tried (3).",
    "--parallel": "N      At most so many trials in one program, where that can be (8).",
    "--sweep-dir": "DIR   A new folder for the sweep, or one to continue; default sweeps/<name>.",
}
SHOWN = 10
"""Rows of the table of trials."""


def run(arguments: Sequence[str]) -> int:
    """Tunes as the arguments say; the exit code."""
    start_jax()
    check_back_end()
    from policy_gradients.cli.flags import read_request

    request = read_request(arguments, OPTIONS)
    if request.help:
        print(_usage())
        return 0
    from policy_gradients.training.study import import_optuna
    from policy_gradients.training.sweep import create_sweep, run_sweep

    import_optuna()
    folder, sweep = _asked(request)
    create_sweep(sweep, folder)
    print(f"Sweep folder: {folder}\n{_introduction(sweep)}", flush=True)
    status, outcomes = run_sweep(sweep, folder, _Lines(), print)
    return _report(sweep, folder, status, outcomes)


def _asked(request: "Request") -> tuple[Path, "Sweep"]:
    """The folder, and the sweep that the arguments describe or, without further arguments, the one that is there."""
    from policy_gradients.training.config import load_mapping
    from policy_gradients.training.space import read_space
    from policy_gradients.training.sweep import TUNING_SEEDS, Sweep, load_sweep

    options, experiment = request.options, request.experiment
    counts = {name: _count(f"--{name}", options) for name in ("trials", "seeds", "parallel") if f"--{name}" in options}
    folder = Path(options["--sweep-dir"]) if "--sweep-dir" in options else _new_folder(experiment)
    if not request.settings and set(options) <= {"--sweep-dir", "--trials", "--parallel"}:
        if not (folder / "sweep.yaml").is_file():
            raise UserError("sweep: name an algorithm (sweep ppo --env CartPole-v1), or a sweep's folder to continue.")
        return folder, replace(load_sweep(folder), **counts)
    if "seed" in request.settings:
        seeds = f"{TUNING_SEEDS[0]}–{TUNING_SEEDS[-1]}"
        raise UserError(
            f"sweep: trials use the tuning seeds {seeds} only, so that yours stay unseen; leave --seed out."
        )
    if counts.get("seeds", 1) > len(TUNING_SEEDS):
        raise UserError(f"--seeds: there are {len(TUNING_SEEDS)} tuning seeds, got {counts['seeds']}.")
    source = options.get("--space")
    mapping = load_mapping(Path(source)) if source else _own_space(experiment)
    space = read_space(mapping, experiment, source or f"the space of {experiment.algorithm}")
    return folder, Sweep(experiment, space, **counts)


def _own_space(experiment: "Experiment") -> dict[str, Any]:
    """The algorithm's own space, as far as it means something on the task."""
    from policy_gradients.environments.base import Discrete
    from policy_gradients.training.space import default_space
    from policy_gradients.training.sweep import task_spec

    return default_space(experiment.algorithm, discrete=isinstance(task_spec(experiment).action_space, Discrete))


def _count(option: str, options: dict[str, str]) -> int:
    from argparse import ArgumentTypeError

    from policy_gradients.cli.arguments import positive

    try:
        return positive(options[option])
    except ArgumentTypeError as error:
        raise UserError(f"{option}: {error}.") from error


def _new_folder(experiment: Any) -> Path:
    name = experiment.env.id.replace("/", "_").replace(":", "_")
    return Path("sweeps") / f"{experiment.algorithm}-{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _introduction(sweep: "Sweep") -> str:
    """What is searched, in two lines."""
    from policy_gradients.training.population import moments
    from policy_gradients.training.sweep import TUNING_SEEDS

    experiment = sweep.experiment
    judged = "evaluation" if experiment.evaluation.num_evaluations else "training"
    return (
        f"{sweep.trials} trials of {experiment.algorithm} on {experiment.env.id}, {experiment.total_steps:,} steps "
        f"each with {sweep.seeds} of the seeds {TUNING_SEEDS[0]}–{TUNING_SEEDS[-1]}, judged by the {judged} return at "
        f"{len(moments(experiment))} moments.\n"
        f"Tuned: {', '.join('.'.join(dimension.path[1:]) for dimension in sweep.space)}."
    )


class _Lines:
    """Prints a line for each trial that has come to an end."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def __call__(self, outcome: "Outcome", best: "Outcome | None") -> None:
        from policy_gradients.training.progress import format_seconds

        parts = [f"trial {outcome.number}", outcome.note if outcome.score is None else f"return {outcome.score:,.1f}"]
        if best is not None:
            parts.append(f"best {best.score:,.1f} (trial {best.number})")
        parts.append(format_seconds(time.perf_counter() - self._began))
        parts.append(", ".join(f"{path[-1]} {_shown(value)}" for path, value in outcome.settings.items()))
        print(" · ".join(parts), flush=True)


def _report(sweep: "Sweep", folder: Path, status: str, outcomes: "list[Outcome]") -> int:
    """The table of the best trials, the picture, and how to go on; the exit code."""
    from policy_gradients.evaluation.history import plot_history
    from policy_gradients.training.saving import quoted
    from policy_gradients.training.study import best_of, score_or_worst

    code = exit_code(status)
    scored = sorted((each for each in outcomes if each.score is not None), key=score_or_worst, reverse=True)
    if scored:
        print(f"\n{_table(scored[:SHOWN])}\n")
        title = f"{sweep.experiment.algorithm.upper()} · {sweep.experiment.env.id} · {len(outcomes)} trials"
        plot_history([(each.number, each.score) for each in outcomes], folder / "history.png", title)
        print(f"History: {folder / 'history.png'}")
    if status != "finished":
        print(
            f"Stopped after {len(outcomes)} of {sweep.trials} trials; "
            f"continue: policy-gradients sweep --sweep-dir {quoted(folder)}"
        )
    elif best_of(outcomes) is None:
        print("No trial came to its end with a return; look at the notes above.")
    if scored:
        print(f"Train with the best: policy-gradients train --config {quoted(folder / 'best.yaml')}")
    return code


def _table(outcomes: "Sequence[Outcome]") -> str:
    from policy_gradients.cli.envs import table

    names = [path[-1] for path in outcomes[0].settings]
    rows = [(each.number, f"{each.score:,.1f}", *map(_shown, each.settings.values())) for each in outcomes]
    return table([("trial", "return", *names), *rows])


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "-".join(map(_shown, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value).lower() if value is None else str(value)


def _usage() -> str:
    options = "\n".join(f"  {name} {text}" for name, text in OPTIONS.items())
    return f"""usage: policy-gradients sweep ALGORITHM [--env ID] [options] [settings of `train`]
       policy-gradients sweep --sweep-dir DIR [--trials N]

Tries settings drawn from a space (Optuna's TPE), stops trials below the median of those before, and keeps the best as
YAML for `train --config`. A sweep that was stopped or killed goes on where it was, and repeats the trial it was at.
--evaluation.num-evaluations 0 judges by the return in training, which is faster.

options:
{options}

A space is YAML with a line for each setting:
  learning_rate: {{low: 1e-4, high: 1e-3, log: true}}
  gamma: [0.99, 0.999]
  network.hidden: [[64, 64], [256, 256]]"""
