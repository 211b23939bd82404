"""Resident memory: the peak of a HalfCheetah run beside Stable-Baselines3's, and growth over a thousand updates.

Peaks are VmHWM, summed over a run's processes. Libraries are compared on training alone, with the same settings; the
whole command `policy-gradients train`, with its evaluations, learning curve and film, stands beside. Ours is stated for
a first run, whose peak is that of the compiler, and for a later one, which finds its programs in the compilation cache.
Growth is the resident memory of the command after update 1,000 less that after update 10.

    python benchmarks/memory.py --peer-python path/to/python/with/stable-baselines3
"""

import argparse
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from contest import Contestant, can_import, end_cleanly_on_sigterm, source_environment
from processes import peak_mib, resident_mib, watch
from report import Report, table, versions
from settings import Setting
from startup import CONSOLE_SCRIPT

UPDATES = (10, 20, 50, 100, 200, 500, 1000)
"""When growth is looked at."""

TIMEOUT = 1800.0
COMMAND, OURS, PEER = (
    "policy-gradients train, whole command",
    "policy_gradients, training",
    "Stable-Baselines3, training",
)

CACHES = ("first run", "later run")
"""With an empty compilation cache, and with the one that the first run leaves."""


def training_peak(name: str, script: str, settings: dict[str, Any], python: str) -> dict[str, Any]:
    """Peak memory of a contestant that trains to its `return_steps`, MiB."""
    with Contestant(name, script, settings, python) as contestant:
        reached = contestant.ask("return", timeout=TIMEOUT)
        return {
            "peak_mib": peak_mib(contestant.pid),
            "steps": reached["steps"],
            "versions": contestant.facts["versions"],
        }


def command_peak(setting: Setting, folder: Path, name: str) -> dict[str, Any]:
    """Peak memory of the command, sampled ten times a second so that processes it ended count too, MiB."""
    peak = 0.0
    process = _train(setting, folder, name, setting.return_steps)

    def look() -> None:
        nonlocal peak
        peak = max(peak, peak_mib(process.pid))

    _follow(process, look, 0.1, folder / f"{name}.log")
    return {"peak_mib": peak, "steps": setting.return_steps, "versions": versions()}


def growth(setting: Setting, folder: Path) -> dict[str, Any]:
    """Resident memory after each of `UPDATES`, MiB; evaluation is off, as its first one compiles its own program."""
    seen: dict[int, float] = {}
    total = (UPDATES[-1] + 50) * setting.num_envs * setting.num_steps
    process = _train(setting, folder, "run", total, "--evaluation.num-evaluations", "0", "--no-video")
    lines = _LineCount(folder / "run" / "metrics.jsonl")

    def look() -> None:
        done = lines.count()
        for update in UPDATES:
            if update not in seen and done >= update:
                seen[update] = resident_mib(process.pid)

    _follow(process, look, 0.005, folder / "run.log")
    return {"resident_mib": {str(update): mib for update, mib in seen.items()}, "growth_mib": seen[1000] - seen[10]}


class _LineCount:
    """Lines of a file that grows, each read once."""

    def __init__(self, path: Path) -> None:
        self._path, self._at, self._lines = path, 0, 0

    def count(self) -> int:
        """Lines so far."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._at)
                new = file.read()
            self._at += len(new)
            self._lines += new.count(b"\n")
        return self._lines


def _train(setting: Setting, folder: Path, name: str, total_steps: int, *flags: str) -> subprocess.Popen:
    import yaml

    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(setting.experiment()), encoding="utf-8")
    command = [sys.executable, "-c", CONSOLE_SCRIPT, "train", "ppo", "--preset", "none", "--config", str(config)]
    command += ["--run-dir", str(folder / name), "--total-steps", str(total_steps), *flags]
    variables = {**source_environment(), "XDG_CACHE_HOME": str(folder)}
    variables.pop("JAX_COMPILATION_CACHE_DIR", None)
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=variables, cwd=folder)


def _follow(process: subprocess.Popen, look: Callable[[], None], every: float, log: Path) -> None:
    try:
        watch(process.pid, lambda: process.poll() is not None, look, every)
        if process.wait() != 0:
            raise RuntimeError(f"train failed: {log.read_text(errors='replace')[-2000:]}")
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def measure_peaks(options: argparse.Namespace, setting: Setting) -> dict[str, Any]:
    """Peaks of all contestants, MiB."""
    peaks: dict[str, Any] = {}
    if can_import(options.peer_python, "stable_baselines3"):
        peer = {"setting": setting.plain(), "threads": 1, "processes": False}
        peaks[PEER] = training_peak(PEER, "contestant_sb3.py", peer, options.peer_python)
    else:
        print("Stable-Baselines3 is left out: it is not installed for --peer-python.", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        ours = {"experiment": setting.experiment(), "return_steps": setting.return_steps, "cache": folder}
        for run in CACHES:
            peaks[f"{OURS}, {run}"] = training_peak(OURS, "contestant_ours.py", ours, sys.executable)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        for run in CACHES:
            peaks[f"{COMMAND}, {run}"] = command_peak(setting, Path(folder), run.replace(" ", "-"))
    return {"peaks": peaks}


def show_peaks(section: dict[str, Any]) -> str:
    """Peaks as Markdown."""
    peaks = section["peaks"]
    base = peaks.get(PEER, {}).get("peak_mib", math.nan)
    rows = [
        (name, f"{peak['peak_mib']:,.0f}", "" if math.isnan(base) else f"{peak['peak_mib'] / base:.2f}")
        for name, peak in peaks.items()
    ]
    return table((section["label"], "peak MiB", "of Stable-Baselines3's"), rows)


def show_growth(section: dict[str, Any]) -> str:
    """Growth as Markdown."""
    seen = section["resident_mib"]
    row = ["resident MiB", *(f"{mib:,.1f}" for mib in seen.values()), f"{section['growth_mib']:+.1f}"]
    return table(("update", *seen, "10 → 1,000"), [row])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has Stable-Baselines3")
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps of the runs whose peak is taken")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/memory.json"))
    parser.add_argument("--fresh", action="store_true", help="measure again what the file holds")
    options = parser.parse_args(arguments)
    report = Report(options.out, options.fresh)

    setting = Setting("HalfCheetah-v4", 8, 256, 64, 10, return_steps=options.steps)
    section = report.find("peak", setting.plain())
    if section is None:
        section = report.add("peak", setting.plain(), {"label": setting.label, **measure_peaks(options, setting)})
    print(show_peaks(section), flush=True)

    small = Setting("HalfCheetah-v4", 8, 16, 128, 1)
    section = report.find("growth", small.plain())
    if section is None:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            results = {"label": small.label, "versions": versions(), **growth(small, Path(folder))}
        section = report.add("growth", small.plain(), results)
    print(f"\n{show_growth(section)}")


if __name__ == "__main__":
    end_cleanly_on_sigterm()
    main()
