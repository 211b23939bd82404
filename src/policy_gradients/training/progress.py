"""What a person sees of a running run: a bar on a terminal, plain lines elsewhere."""

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from policy_gradients.training.config import Experiment

REDRAW_EVERY = 0.1
"""Least seconds between two drawings of the bar: eyes need no more, and a drawing costs some 2 ms."""

BAR_FITS = 100
"""Columns of a terminal that has room for a bar beside the text; on a narrower one the text says it all."""

LINE_EVERY = 5.0
LINE_SHARE = 0.01
"""A plain line appears after so many seconds or this share of the run, whichever comes later."""


class Progress(Protocol):
    """Where a run reports to while it runs."""

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Environment steps so far, and the metrics of the latest update."""
        ...

    def message(self, text: str) -> None:
        """A sentence for the user."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class SilentProgress:
    """Says nothing."""

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Does nothing."""

    def message(self, text: str) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class LineProgress:
    """A plain line now and then, for logs and pipes.

    A line that cannot be written is dropped: the log's disk may be full, and Ctrl-C ends the `tee` of `train | tee log`
    before the run has saved.

    Args:
        total_steps: Environment steps of the run.
        write: Takes one line.
        clock: Seconds.
    """

    def __init__(
        self,
        total_steps: int,
        write: Callable[[str], object] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._write = write or (lambda line: print(line, flush=True))
        self._state, self._clock = Standing(total_steps, clock), clock
        self._next_time, self._next_step = 0.0, 0.0

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes a line where one is due, and always at the end."""
        self._state.note(step, metrics)
        now, total = self._clock(), self._state.total_steps
        if step < total and (now < self._next_time or step < self._next_step):
            return
        self._next_time, self._next_step = now + LINE_EVERY, step + LINE_SHARE * total
        self.message(self._state.line())

    def message(self, text: str) -> None:
        """Writes the text as a line."""
        with contextlib.suppress(OSError):
            self._write(text)

    def close(self) -> None:
        """Does nothing."""


class BarProgress:
    """A bar at the foot of a terminal; messages scroll above it. It falls silent where the terminal is gone.

    Args:
        total_steps: Environment steps of the run.
        console: A `rich.console.Console`; None for standard error.
        clock: Seconds.
    """

    def __init__(self, total_steps: int, console: Any = None, clock: Callable[[], float] = time.perf_counter) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._state, self._clock, self._next_time = Standing(total_steps, clock), clock, 0.0
        self._console = console or Console(stderr=True)
        text = TextColumn("{task.description}", markup=False)
        columns = (BarColumn(bar_width=16), text) if self._console.width >= BAR_FITS else (text,)
        self._bar = RichProgress(*columns, console=self._console, auto_refresh=False, transient=False)
        self._task = self._bar.add_task("compiling …", total=total_steps)
        with self._drawing():
            self._console.show_cursor(False)  # as the start does first, which cannot be ended where it failed halfway
        with self._drawing():
            self._bar.start()
            self._bar.refresh()

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Redraws, unless that has only just been done."""
        self._state.note(step, metrics)
        now = self._clock()
        if now < self._next_time and step < self._state.total_steps:
            return
        self._next_time = now + REDRAW_EVERY
        self._draw()

    def message(self, text: str) -> None:
        """Prints the text above the bar."""
        with self._drawing():
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leaves the bar as it stands at the end."""
        if self._state.step:
            self._draw()
        with self._drawing():
            self._bar.stop()

    def _draw(self) -> None:
        step = min(self._state.step, self._state.total_steps)
        with self._drawing():
            self._bar.update(self._task, completed=step, description=self._state.line(), refresh=True)

    @contextlib.contextmanager
    def _drawing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SystemExit):  # rich leaves the program where a pipe is closed
            self._console.quiet = True


class Standing:
    """How far a run is, and what is worth saying of it in one line."""

    def __init__(self, total_steps: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.total_steps, self.step = total_steps, 0
        self._clock, self._began = clock, clock()
        self._metrics: Mapping[str, float] = {}
        self._evaluation = math.nan

    def note(self, step: int, metrics: Mapping[str, float]) -> None:
        """Remembers the latest; of evaluations, which are not in every update, the last."""
        self.step, self._metrics = step, metrics
        self._evaluation = metrics.get("eval/mean_reward", self._evaluation)

    def line(self) -> str:
        """'123k/1M steps · 15.3k steps/s · 0:08, 0:57 left · return 1,312.5 · eval 1,420.1': fits in 80 columns."""
        parts = [f"{short_count(self.step)}/{short_count(self.total_steps)} steps"]
        rate = self._metrics.get("time/fps", math.nan)
        elapsed = format_seconds(self._clock() - self._began)
        if rate > 0:
            parts.append(f"{short_count(rate)} steps/s")
            elapsed += f", {format_seconds(max(0, self.total_steps - self.step) / rate)} left"
        parts.append(elapsed)
        episode_return = self._metrics.get("rollout/ep_rew_mean", math.nan)
        shown = (("return", episode_return), ("eval", self._evaluation))
        parts += [f"{name} {value:,.1f}" for name, value in shown if not math.isnan(value)]
        return " · ".join(parts)


def short_count(number: float) -> str:
    """Three digits and a unit: '512', '12.3k', '1M'."""
    for unit in ("", "k", "M"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}G"


def format_seconds(seconds: float) -> str:
    """'0:08', '12:34' or '1:02:03'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def make_progress(experiment: Experiment, run: Path) -> Progress:
    """The progress that `logging.progress` asks for; "auto" is a bar where standard error can redraw a line."""
    kind = experiment.logging.progress
    if kind == "auto":
        dumb = os.environ.get("TERM") in ("dumb", "unknown")  # rich would draw nothing before the end
        kind = "bar" if sys.stderr and sys.stderr.isatty() and not dumb else "lines"
    if kind == "none":
        return SilentProgress()
    progress: Progress = BarProgress(experiment.total_steps) if kind == "bar" else LineProgress(experiment.total_steps)
    progress.message(f"Run folder: {run}")
    return progress
