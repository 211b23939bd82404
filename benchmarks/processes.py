"""Memory of a process and everything it started, from Linux's /proc."""

import os
import time
from collections.abc import Callable
from pathlib import Path


def tree(pid: int) -> list[int]:
    """A process and its descendants, as far as they still live."""
    found, waiting = [], [pid]
    while waiting:
        current = waiting.pop()
        found.append(current)
        for task in Path(f"/proc/{current}/task").glob("*/children"):
            try:
                waiting.extend(map(int, task.read_text().split()))
            except OSError:
                continue
    return found


def peak_mib(pid: int) -> float:
    """Sum of the peak resident memory (VmHWM) of a process and its living descendants, MiB."""
    return sum(_status_mib(each, "VmHWM") for each in tree(pid))


def resident_mib(pid: int) -> float:
    """Resident memory (VmRSS) of a process and its living descendants, MiB."""
    return sum(_status_mib(each, "VmRSS") for each in tree(pid))


def watch(pid: int, ended: Callable[[], bool], look: Callable[[], None], every: float) -> None:
    """Calls `look` every so many seconds until the process has ended."""
    while not ended() and os.path.exists(f"/proc/{pid}"):
        look()
        time.sleep(every)


def _status_mib(pid: int, field: str) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":")), 0.0)
