"""`policy-gradients plot`: learning curves of one or more runs."""

from collections.abc import Sequence
from pathlib import Path

from policy_gradients.cli.arguments import Parser


def run(arguments: Sequence[str]) -> int:
    """Draws the curves; the exit code."""
    parser = Parser("plot", "Draws learning curves; runs that differ only in their seed become a mean and an interval.")
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run folders")
    parser.add_argument("--out", type=Path, help="the picture; default curve.png of a single run, else curves.png here")
    parser.add_argument("--x", default="time/total_timesteps", metavar="METRIC", help="horizontal axis (%(default)s)")
    parser.add_argument("--y", metavar="METRIC", help="what to show (the return)")
    options = parser.parse(arguments)
    from policy_gradients.evaluation.plots import plot_runs

    single = options.runs[0] / "curve.png" if len(options.runs) == 1 else Path("curves.png")
    out = options.out or single
    begun = [run for run in options.runs if not _waits(run)]
    for run in options.runs:
        if begun and run not in begun:
            print(f"Left out: {run} has finished no update yet.")
    plot_runs(begun or options.runs, out, x=options.x, y=options.y)
    print(f"Learning curve: {out}")
    return 0


def _waits(run: Path) -> bool:
    """Whether a folder is a run's that has finished no update yet."""
    metrics = run / "metrics.jsonl"
    return (run / "config.yaml").is_file() and not (metrics.is_file() and metrics.stat().st_size)
