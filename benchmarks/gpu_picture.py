"""What `gpu.py learn` measured as a picture: return on MuJoCo's C engine by seconds of training, a panel per task.

    python benchmarks/gpu_picture.py RESULTS... --before RESULTS... --out docs/images/gpu_learning.png

Each file holds lines of `gpu.py learn`; all runs of a task are drawn together, whatever their seeds and settings.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

GREY, BLUE = "#9a9a9a", "#1f5fa8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--before", nargs="*", type=Path, default=[])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    now, before = read(options.results), read(options.before)
    tasks = sorted({run["task"] for run in now}, key="HalfCheetah-v4 Ant-v4 Humanoid-v4".find)
    figure, panels = plt.subplots(1, len(tasks), figsize=(4.2 * len(tasks), 3.4), squeeze=False)
    for panel, task in zip(panels[0], tasks, strict=True):
        for runs, colour, name in ((before, GREY, "before"), (now, BLUE, "now")):
            draw(panel, [run for run in runs if run["task"] == task], colour, name)
        panel.set_title(task)
        panel.set_xlabel("seconds of training on one H200")
        panel.set_xlim(left=0)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.legend(loc="lower right", frameon=False)
    panels[0][0].set_ylabel("return, 20 episodes on the C engine")
    figure.tight_layout()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=120)


def read(files: list[Path]) -> list[dict[str, Any]]:
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def draw(panel: Any, runs: list[dict[str, Any]], colour: str, name: str) -> None:
    """Every seed thin, and the mean of those that have the mark thick."""
    marks: dict[float, list[float]] = {}
    for run in runs:
        seconds, returns = ([mark[key] for mark in run["on_c"]] for key in ("seconds", "return_mean"))
        panel.plot(seconds, returns, color=colour, alpha=0.4, linewidth=0.9, marker=".", markersize=3)
        for at, value in zip(seconds, returns, strict=True):
            marks.setdefault(at, []).append(value)
    full = sorted(at for at, values in marks.items() if len(values) == max(map(len, marks.values())))
    if full:
        means = [sum(marks[at]) / len(marks[at]) for at in full]
        panel.plot(full, means, color=colour, linewidth=2, marker="o", markersize=4, label=name)


if __name__ == "__main__":
    main()
