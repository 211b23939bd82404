"""How long a user waits: for `import policy_gradients`, for `policy-gradients --help`, and for the first update.

Every measurement is a fresh process. The first update is timed from the start of the process of
`policy-gradients train` until its first line of metrics is on disk, with the compilation cache empty (once) and warm.

    python benchmarks/startup.py
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from contest import end_cleanly_on_sigterm, source_environment
from report import Report, spread, summary, table, versions

CONSOLE_SCRIPT = "import sys; from policy_gradients.cli.main import main; sys.exit(main())"
"""What the installed command `policy-gradients` does."""

IMPORT = "import time; t = time.perf_counter(); import policy_gradients; print(time.perf_counter() - t)"
FIRST_UPDATE_TIMEOUT = 300.0
POLL = 0.005  # seconds between two looks for the first line of metrics


def import_seconds() -> float:
    """Seconds of the import alone, without the interpreter's own start."""
    return float(_python("-c", IMPORT))


def seconds_of(*arguments: str) -> float:
    """Wall-clock seconds of a whole process of Python."""
    began = time.perf_counter()
    _python(*arguments)
    return time.perf_counter() - began


def first_update_seconds(env_id: str, cache: Path, run: Path) -> float:
    """Seconds from the start of `train` until its first update is logged; the run is then ended.

    Raises:
        RuntimeError: It ended before, or never came to it.
    """
    errors = run.with_suffix(".stderr")
    command = [sys.executable, "-c", CONSOLE_SCRIPT, "train", "ppo", "--env", env_id, "--run-dir", str(run)]
    variables = {**source_environment(), "XDG_CACHE_HOME": str(cache)}
    variables.pop("JAX_COMPILATION_CACHE_DIR", None)
    began = time.perf_counter()
    with errors.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, env=variables, cwd=cache)
    try:
        while not _has_line(run / "metrics.jsonl"):
            if process.poll() is not None or time.perf_counter() - began > FIRST_UPDATE_TIMEOUT:
                raise RuntimeError(f"train made no first update: {errors.read_text(errors='replace')[-2000:]}")
            time.sleep(POLL)
        return time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def measure(env_id: str, repeats: int) -> dict[str, Any]:
    """Seconds of every repeat, by measure."""
    _python("-c", "import policy_gradients.cli.main")  # writes the byte code that every later start reads
    figures = {
        "interpreter alone": [seconds_of("-c", "pass") for _ in range(repeats)],
        "import policy_gradients": [import_seconds() for _ in range(repeats)],
        "policy-gradients --help": [seconds_of("-c", CONSOLE_SCRIPT, "--help") for _ in range(repeats)],
    }
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        times = [first_update_seconds(env_id, Path(folder), Path(folder) / f"run{i}") for i in range(repeats + 1)]
    figures["first update, empty compilation cache"] = times[:1]
    figures["first update, warm compilation cache"] = times[1:]
    return {name: {"seconds": seconds, **summary(seconds)} for name, seconds in figures.items()}


def show(section: dict[str, Any]) -> str:
    """The section as Markdown."""
    rows = [(name, spread(result, ".3f")) for name, result in section["measures"].items()]
    return table((f"{section['settings']['env']}, fresh processes", "seconds: median (range)"), rows)


def _python(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], env=source_environment(), capture_output=True, text=True, check=True
    )
    return done.stdout


def _has_line(path: Path) -> bool:
    try:
        return os.path.getsize(path) > 0
    except OSError:
        return False


def main() -> None:
    """Measures, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="HalfCheetah-v4")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/startup.json"))
    parser.add_argument("--fresh", action="store_true", help="measure again what the file holds")
    options = parser.parse_args()
    report, settings = Report(options.out, options.fresh), {"env": options.env, "repeats": options.repeats}
    section = report.find("startup", settings)
    if section is None:
        results = {"versions": versions(), "measures": measure(options.env, options.repeats)}
        section = report.add("startup", settings, results)
    print(show(section))


if __name__ == "__main__":
    end_cleanly_on_sigterm()
    main()
