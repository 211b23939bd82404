"""What a preset learns: several seeds in sequence, each judged at the end by 100 fresh episodes of the saved policy.

Every seed is one `policy-gradients train`. A stopped benchmark continues: seeds that are judged are skipped, a run that
was interrupted is resumed from its checkpoint. A seed that diverged counts with its last score and is named.

    python benchmarks/learning.py --env HalfCheetah-v4 --steps 1000000
    python benchmarks/learning.py --env CartPole-v1 --steps 100000 --seeds 0 1 2 -- --hyperparameters.learning-rate 2e-3
"""

import argparse
import hashlib
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contest import ROOT, end_cleanly_on_sigterm, source_environment
from report import Report, table, versions
from startup import CONSOLE_SCRIPT

sys.path.insert(0, str(ROOT / "src"))

EPISODES = 100
FIRST_EVALUATION_SEED = 1_000_000
"""Evaluation seeds are this number plus the run's seed: disjoint from every seed of training."""

DIVERGED = 1
"""Exit code of a training that failed by itself: its seed counts. Any other stops the benchmark, to be continued."""

FINAL_SHARE = 0.05
"""The final score is the mean over this share of the run's evaluations."""


def train(options: argparse.Namespace, seed: int, run: Path) -> int:
    """Trains or resumes a run, its output in a file beside it; the exit code (0: it is finished)."""
    if (run / "policy" / "policy.json").is_file():
        return 0
    if any((run / "checkpoints").glob("update_*")):
        arguments = ["resume", str(run)]
    else:
        arguments = ["train", options.algorithm, "--env", options.env, "--preset", options.preset]
        arguments += ["--seed", str(seed), "--total-steps", str(options.steps), "--run-dir", str(run), "--no-video"]
        arguments += ["--evaluation.num-evaluations", str(options.evaluations), *options.flags]
    run.parent.mkdir(parents=True, exist_ok=True)
    with run.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", CONSOLE_SCRIPT, *arguments], stdout=log, stderr=log, env=source_environment()
        )
        try:
            return process.wait()
        except BaseException:
            process.terminate()  # it saves a checkpoint, from which the next call resumes
            process.wait()
            raise


def judge(run: Path, seed: int) -> dict[str, Any]:
    """Returns of 100 deterministic and 100 stochastic episodes of the run's last policy; nothing if it has none."""
    from policy_gradients.cli.evaluate import COPIES, make_environment, play
    from policy_gradients.deployment.numpy_policy import load_policy
    from policy_gradients.training.config import load_experiment

    if not (run / "policy" / "policy.json").is_file():
        return {}
    policy, fresh = load_policy(run / "policy"), FIRST_EVALUATION_SEED + seed
    env = make_environment(policy, load_experiment(run / "config.yaml").env, min(EPISODES, COPIES))
    try:
        played = {
            kind: play(policy, env, EPISODES, deterministic=kind == "deterministic", seed=fresh)
            for kind in ("deterministic", "stochastic")
        }
    finally:
        env.close()
    return {kind: [None if math.isnan(x) else x for x in result.returns.tolist()] for kind, result in played.items()}


def curve(run: Path) -> dict[str, Any]:
    """The run's own evaluations, its speed and its times, from its metrics."""
    from policy_gradients.training.loggers import read_metrics

    rows = read_metrics(run / "metrics.jsonl")
    evaluations = [row for row in rows if "eval/mean_reward" in row]
    names = {
        "steps": "time/total_timesteps",
        "deterministic": "eval/mean_reward",
        "stochastic": "eval/stochastic_mean_reward",
    }
    last = rows[-1] if rows else {}
    return {
        "evaluations": {short: [row.get(name) for row in evaluations] for short, name in names.items()},
        "env_steps": last.get("time/total_timesteps"),
        "wall_seconds": last.get("time/time_elapsed"),
        "compile_seconds": last.get("time/compile"),
        "steps_per_second": last.get("time/fps"),
    }


def one_seed(options: argparse.Namespace, seed: int, run: Path) -> dict[str, Any]:
    """Everything about a seed."""
    code = train(options, seed, run)
    results = {"exit_code": code, "episodes": judge(run, seed), **curve(run)}
    scores = [score for score in results["evaluations"]["deterministic"] if score is not None]
    tail = max(1, math.ceil(FINAL_SHARE * len(scores)))
    results["final"] = float(np.mean(scores[-tail:])) if scores else None
    results["auc"] = float(np.mean(scores)) if scores else None
    results["best"] = max(scores, default=None)
    finished = [score for score in results["episodes"].get("deterministic", []) if score is not None]
    results["score"] = float(np.mean(finished)) if finished else results["final"]
    return results


def facts(run: Path) -> dict[str, Any]:
    """What decides the figures of a run, from its last checkpoint and its configuration."""
    from policy_gradients.training.checkpoint import latest_checkpoint
    from policy_gradients.training.config import load_experiment, to_mapping

    manifest = json.loads((latest_checkpoint(run) / "manifest.json").read_text(encoding="utf-8"))
    experiment = to_mapping(load_experiment(run / "config.yaml"))
    return {
        "config_hash": manifest["config_hash"],
        "environment": manifest["environment"],
        "experiment": {name: value for name, value in experiment.items() if name != "seed"},
    }


def aggregate(seeds: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Mean, deviation, interquartile mean and interval of the seeds' scores."""
    from policy_gradients.evaluation.statistics import bootstrap, interquartile_mean, mean

    scores = np.array([result["score"] for result in seeds.values() if result["score"] is not None])
    if not scores.size:
        return {"scores": {}}
    columns = {name: [r[name] for r in seeds.values() if r[name] is not None] for name in ("final", "best", "auc")}
    return {
        "scores": {str(seed): result["score"] for seed, result in seeds.items()},
        "mean": float(scores.mean()),
        "std": float(scores.std(ddof=1)) if scores.size > 1 else 0.0,
        "median": float(np.median(scores)),
        "iqm": float(interquartile_mean(scores)),
        "interval_95": list(bootstrap([scores], mean)[1:]),
        **{f"{name}_mean": float(np.mean(values)) for name, values in columns.items() if values},
    }


def show(options: argparse.Namespace, seeds: dict[int, dict[str, Any]], total: dict[str, Any]) -> str:
    """Seeds and summary as Markdown."""
    number = lambda x: "" if x is None else f"{x:,.1f}"  # noqa: E731
    rows = []
    for seed, result in seeds.items():
        ended = "" if result["exit_code"] == 0 else f" (ended with {result['exit_code']})"
        cells = (result[name] for name in ("score", "final", "best", "auc", "wall_seconds", "steps_per_second"))
        rows.append((f"seed {seed}{ended}", *map(number, cells)))
    head = (f"{options.env}, {options.algorithm}", f"{EPISODES} episodes", "final", "best", "AUC", "wall s", "steps/s")
    lines = [table(head, rows)]
    if total["scores"]:
        low, high = total["interval_95"]
        experiment = total["experiment"]
        lines.append(
            f"\n{EPISODES} deterministic episodes per seed: {number(total['mean'])} ± {number(total['std'])} over "
            f"{len(total['scores'])} seeds, IQM {number(total['iqm'])}, median {number(total['median'])}, 95% interval "
            f"of the mean {number(low)}–{number(high)}; {options.steps:,} environment steps, preset {options.preset}, "
            f"configuration {total['config_hash']}, actions {experiment['env']['action_map']}, "
            f"MuJoCo {total['versions'].get('mujoco')}, JAX {total['versions'].get('jax')}, commit {total['commit']}."
        )
    return "\n".join(lines)


def main(options: argparse.Namespace) -> int:
    """Trains what is not trained yet; returns the exit code."""
    name = f"{options.algorithm}-{options.env.replace('/', '_').replace(':', '_')}"
    out = options.out or Path("benchmarks/results") / f"learning-{name}.json"
    settings = {
        "algorithm": options.algorithm, "env": options.env, "steps": options.steps, "preset": options.preset,
        "evaluations": options.evaluations, "episodes": EPISODES, "flags": options.flags,
    }  # fmt: skip
    digits = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
    runs = {seed: options.runs / f"{name}-{digits}" / f"seed{seed}" for seed in options.seeds}
    if options.fresh:
        for run in runs.values():
            shutil.rmtree(run, ignore_errors=True)
    report, seeds = Report(out, options.fresh), {}
    for seed, run in runs.items():
        found = report.find(f"seed {seed}", settings)
        if found is None:
            results = one_seed(options, seed, run)
            if results["exit_code"] not in (0, DIVERGED):
                print(f"seed {seed} ended with {results['exit_code']}; see {run.with_suffix('.log')}", file=sys.stderr)
                return 1
            found = report.add(f"seed {seed}", settings, {"versions": versions(), **results})
            print(f"seed {seed}: {found['score']}", file=sys.stderr, flush=True)
        seeds[seed] = found
    known = next((facts(run) for run in runs.values() if any((run / "checkpoints").glob("update_*"))), {})
    total = report.add("summary", settings, {"versions": versions(), **aggregate(seeds), **known})
    print(show(options, seeds, total))
    draw(list(runs.values()), out.with_suffix(".png"))
    return 0


def draw(runs: Sequence[Path], out: Path) -> None:
    """The learning curves of those runs that are still on disk, as a mean and an interval."""
    from policy_gradients.errors import UserError
    from policy_gradients.evaluation.plots import plot_runs

    try:
        plot_runs([run for run in runs if (run / "metrics.jsonl").is_file()], out)
    except UserError as error:
        print(f"No picture: {error}", file=sys.stderr)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; what follows `--` goes to `policy-gradients train`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", required=True)
    parser.add_argument("--algorithm", default="ppo")
    parser.add_argument("--preset", default="auto")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="result seeds")
    parser.add_argument("--steps", type=int, default=1_000_000, help="environment steps per seed")
    parser.add_argument("--evaluations", type=int, default=50, help="evaluations along a run")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"), help="where run folders go")
    parser.add_argument("--out", type=Path, help="default benchmarks/results/learning-<algorithm>-<env>.json")
    parser.add_argument("--fresh", action="store_true", help="delete these runs and their results, and train again")
    parser.add_argument("flags", nargs="*", help="after --: settings for `policy-gradients train`")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    end_cleanly_on_sigterm()
    sys.exit(main(parse()))
