"""What a benchmark leaves behind: a JSON file with every raw figure and its circumstances, and a Markdown table."""

import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from contest import ROOT

LIBRARIES = ("jax", "jaxlib", "numpy", "gymnasium", "mujoco", "optax")
"""What decides the figures of this library."""


class Report:
    """A result file made of sections, each written as soon as it is measured, so that a stopped benchmark continues.

    Args:
        path: The JSON file.
        fresh: Forget what it holds.
    """

    def __init__(self, path: Path, fresh: bool = False) -> None:
        self.path = path
        self.sections: dict[str, Any] = {}
        if path.is_file() and not fresh:
            self.sections = json.loads(path.read_text(encoding="utf-8"))["sections"]

    def find(self, name: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """The section measured before with these settings on this hardware; None if there is none."""
        section = self.sections.get(name)
        same = section and section["settings"] == _plain(settings) and section["hardware"] == hardware()
        return section if same else None

    def add(self, name: str, settings: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
        """Adds a section with its circumstances and writes the file; a crash never leaves half a file."""
        self.sections[name] = _plain({"settings": settings, **circumstances(), **results})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps({"sections": self.sections}, indent=1) + "\n", encoding="utf-8")
        os.replace(unfinished, self.path)
        return self.sections[name]


def circumstances() -> dict[str, Any]:
    """When, where, on what and by which command something is measured."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "command": command(sys.argv),
        "commit": commit(),
        "hardware": hardware(),
        "load_average": os.getloadavg()[0],
    }


def hardware() -> dict[str, Any]:
    """The machine: processor, cores that this process may use, memory, operating system."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.system()} {platform.machine()}"
    return {"cpu": _cpu_name(), "cores": cores, "memory_gib": round(memory / 2**30, 1), "system": system}


def versions(libraries: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Versions of Python and of those libraries that are installed."""
    found = {"python": platform.python_version()}
    for library in libraries:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def command(argv: Sequence[str]) -> str:
    """The command line without the folders of this one machine."""
    words = [Path(word).name if os.path.isabs(word) else word for word in argv[1:]]
    return " ".join(["python", f"benchmarks/{Path(argv[0]).name}", *words])


def commit() -> str:
    """The source tree's commit, with "+changes" where files under version control differ from it."""
    if shutil.which("git") is None:
        return "unknown"
    git = lambda *words: subprocess.run(  # noqa: E731
        ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False
    ).stdout.strip()
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src", "benchmarks/*.py")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("+changes" if changed else "")


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def paired_ratio(a: Sequence[float], b: Sequence[float]) -> dict[str, Any]:
    """Ratios a/b of measurements taken one after the other, with their median and range."""
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    return {"per_repeat": ratios, **summary(ratios)}


def spread(values: Mapping[str, float], digits: str = ",.0f") -> str:
    """'12,345 (11,900–12,500)'."""
    return f"{values['median']:{digits}} ({values['min']:{digits}}–{values['max']:{digits}})"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    facts = dict(line.split("\t: ", 1) if "\t: " in line else line.split(": ", 1) for line in lines if ": " in line)
    facts = {name.strip(): value for name, value in facts.items()}
    numbers = f"family {facts.get('cpu family', '?')}, model {facts.get('model', '?')}"
    return f"{facts.get('model name', 'unknown')} ({numbers})"


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
