"""`policy-gradients train`: one run, from flags, files and presets."""

import math
import shutil
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy_gradients.cli import distributed
from policy_gradients.cli.runtime import check_back_end, exit_code, start_jax
from policy_gradients.errors import UserError

if TYPE_CHECKING:
    from policy_gradients.training.seeds import SeedRuns

OPTIONS = {
    "--config": "FILE    YAML with settings, nested as in a run's config.yaml; flags override it.",
    "--preset": "NAME    Tuned settings to start from: auto (the environment's, the default), none, or a name.",
    "--run-dir": "DIR    A new or empty folder for everything that the run makes; default runs/<name>.",
    "--seeds": "N        That many seeds, from --seed on, in one program; for environments in JAX or on Warp.",
}


def run(arguments: Sequence[str]) -> int:
    """Trains as the arguments say; the exit code."""
    start_jax()
    others, arguments = distributed.take(arguments)
    distributed.join(others)
    check_back_end()
    from policy_gradients import processes
    from policy_gradients.cli.flags import read_request

    request = read_request(arguments, (*OPTIONS, *distributed.OPTIONS))
    if request.help:
        print(_usage(request.experiment))
        return 0
    if request.preset is not None and processes.leads():
        print(introduce(request.preset), flush=True)
    folder = request.options.get("--run-dir")
    run_dir = Path(folder) if folder else None
    if "--seeds" in request.options:
        from policy_gradients.training.seeds import train_seeds

        return report_seeds(train_seeds(request.experiment, _count(request.options["--seeds"]), run_dir))
    from policy_gradients.training.loop import train

    return report(train(request.experiment, run_dir))


def _count(text: str) -> int:
    from policy_gradients.cli.arguments import positive

    try:
        return positive(text)
    except ArgumentTypeError as error:
        raise UserError(f"--seeds: {error}.") from error


def introduce(preset: Any) -> str:
    """The line that says which preset is used."""
    return f"Preset {preset.name}: {preset.source} (--preset none for plain defaults)."


def report(finished: Any) -> int:
    """Says where the run lies and how well it went; its exit code. Of several processes the lead speaks."""
    from policy_gradients import processes

    result = finished.result
    code = exit_code(result.get("status", "finished"))
    if not processes.leads():
        return code
    if "eval/mean_reward" in result:
        reached = result["eval/mean_reward"]
        score = f"return {reached:,.1f} ± {result.get('eval/std_reward', 0.0):,.1f}"
        if math.isnan(reached):
            score = "return unknown, since no episode came to its end (give a time limit with --max-episode-steps),"
        print(f"Deterministic {score} after {int(result['time/total_timesteps']):,} steps.")
    print(f"Run folder: {finished.path}")
    return code


def report_seeds(finished: "SeedRuns") -> int:
    """A table of what each seed reached, and their mean with its interval; the exit code."""
    from policy_gradients.cli.envs import table
    from policy_gradients.training.seeds import final_return

    code = exit_code(finished.status)
    rows: list[tuple[object, ...]] = [("seed", "return", "steps", "status")]
    for run in finished.runs:
        steps = int(run.result.get("time/total_timesteps", 0))
        reached = final_return(run.result)
        score = "–" if math.isnan(reached) else f"{reached:,.1f}"
        rows.append((run.path.name.removeprefix("seed"), score, f"{steps:,}", run.result["status"]))
    print(f"\n{table(rows)}\n")
    interval = finished.interval()
    if interval is not None:
        print(
            f"Mean return {interval.value:,.1f}, 95 % bootstrap interval {interval.low:,.1f} to {interval.high:,.1f} "
            f"({len(finished.runs)} seeds)."
        )
    print(f"Run folders: {finished.path}/seed…")
    return code


def _usage(experiment: Any) -> str:
    from policy_gradients.cli.flags import describe_flags
    from policy_gradients.training.config import CONFIGS

    options = "\n".join(f"  {name} {text}" for name, text in (OPTIONS | distributed.OPTIONS).items())
    width = min(100, shutil.get_terminal_size().columns)
    return f"""usage: policy-gradients train ALGORITHM [--env ID] [options] [settings]

Trains a policy; ALGORITHM is one of {", ".join(CONFIGS)}.

options:
{options}

settings of {experiment.algorithm} on {experiment.env.id}, with their values in brackets:
{describe_flags(experiment, width)}

  --env.kwargs.NAME
        An option of the task itself.

A setting takes `none` where none makes sense; a switch is turned off with --no-NAME. Order of precedence:
defaults, preset, --config, flags."""
