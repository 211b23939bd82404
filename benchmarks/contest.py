"""Contestants: programs to compare, each in a process of its own that works only when it is asked to.

Machines are noisy and drift, so contestants are measured in turn (A B C A B C …) within one run, and a ratio is the
median of the ratios of neighbours. A contestant may run under another Python interpreter, so this module needs nothing
beyond the standard library. Requests and answers are JSON, one object per line.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
PAUSE = 0.5
"""Seconds between two measurements: OpenMP's threads spin for up to 0.2 s after their last work."""

START_TIMEOUT = 600.0
"""Seconds a contestant may take to start: 64 processes of a vectorised environment take their time on two cores."""


class ContestantFailure(RuntimeError):
    """A contestant could not start, died or fell silent; the message ends with what it last wrote."""


class Contestant:
    """A running contestant, seen from the measuring process.

    Args:
        name: As tables show it.
        script: Its program, beside this file; it calls `serve`.
        settings: What to do, as JSON values.
        python: The interpreter that runs it.

    Attributes:
        facts: What it said once it was ready: versions, seconds of compilation and the like.
        pid: Of its process.
    """

    def __init__(self, name: str, script: str, settings: Mapping[str, Any], python: str = sys.executable) -> None:
        self.name = name
        self._folder = tempfile.TemporaryDirectory(prefix="benchmark-")  # simulators leave log files where they run
        self._errors = Path(self._folder.name) / "stderr"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [_absolute(python), str(ROOT / "benchmarks" / script), json.dumps(settings)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=self._folder.name,
                env=source_environment(), start_new_session=True,
            )  # fmt: skip
        self.pid = self._process.pid
        try:
            self.facts = self._answer(START_TIMEOUT)
        except BaseException:
            self.close()
            raise

    def ask(self, request: str, timeout: float, **arguments: Any) -> dict[str, Any]:
        """Its answer to a request.

        Raises:
            ContestantFailure: It failed, or took longer than `timeout` seconds.
        """
        try:
            self._process.stdin.write(json.dumps({"request": request, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it is dead: reading its answer says why
        return self._answer(timeout)

    def close(self) -> None:
        """Ends it and whatever processes it started."""
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self, timeout: float) -> dict[str, Any]:
        ready, _, _ = select.select([self._process.stdout], [], [], timeout)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            what = "ended" if ready else f"did not answer within {timeout:.0f} s"
            said = self._errors.read_text(errors="replace").strip().splitlines()[-12:]
            raise ContestantFailure("\n    ".join([f"{self.name} {what}.", *said]))
        return json.loads(line)


def serve(start: Callable[[dict[str, Any]], tuple[dict[str, Any], Mapping[str, Callable[..., dict]]]]) -> None:
    """Runs a contestant: `start(settings)` gives its facts and a function per request. Returns when nobody asks more.

    Whatever else it prints goes to standard error, so that no library can spoil an answer.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    facts, requests = start(json.loads(sys.argv[1]))
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin:
        arguments = json.loads(line)
        print(json.dumps(requests[arguments.pop("request")](**arguments)), file=answers, flush=True)


def measure_for(seconds: float, work: Callable[[], int]) -> dict[str, float]:
    """Repeats `work`, which returns the environment steps it took, for at least so many seconds."""
    steps, began = 0, time.perf_counter()
    while True:
        steps += work()
        took = time.perf_counter() - began
        if took >= seconds:
            return {"steps": steps, "seconds": took}


def take_turns(contestants: Sequence[Contestant], repeats: int, seconds: float) -> list[dict[str, Any]]:
    """Measures all contestants in turn, `repeats` times: per contestant its name, facts and steps/s of every repeat."""
    rates: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for _ in range(repeats):
        for contestant in contestants:
            time.sleep(PAUSE)
            result = contestant.ask("measure", timeout=60 + 20 * seconds, seconds=seconds)
            rates[contestant.name].append(result["steps"] / result["seconds"])
    return [{"name": c.name, "facts": c.facts, "steps_per_second": rates[c.name]} for c in contestants]


@contextmanager
def all_closed(contestants: list[Contestant]) -> Iterator[list[Contestant]]:
    """The list, to be filled inside the `with`; all of it is closed at the end."""
    try:
        yield contestants
    finally:
        for contestant in contestants:
            contestant.close()


def source_environment() -> dict[str, str]:
    """This process's environment variables, with this source tree in front of any installed copy."""
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def end_cleanly_on_sigterm() -> None:
    """Makes SIGTERM an ordinary exit, so that contestants are closed by their `with`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def can_import(python: str, module: str) -> bool:
    """True where an interpreter finds a module, without importing it."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    try:
        return subprocess.run([python, "-c", code], capture_output=True, timeout=60, check=False).returncode == 0
    except OSError:
        return False


def _absolute(python: str) -> str:
    """An interpreter by its whole path, since contestants run in folders of their own; links stay as they are."""
    return str(Path(shutil.which(python) or python).absolute())
