"""Metrics on disk: one JSON object per update, and TensorBoard events where they are asked for."""

import importlib.util
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from policy_gradients import processes
from policy_gradients.errors import UserError
from policy_gradients.training.config import Experiment

METRICS_FILE = "metrics.jsonl"


class Logger(Protocol):
    """A place where metrics go."""

    def log(self, update: int, metrics: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class JsonlLogger:
    """`metrics.jsonl`: one JSON object per update, flushed at once, so that a crash loses no line before it.

    Numbers that are not finite have no JSON and are left out, as is a mean over no episodes.

    Args:
        path: The file; made, or continued.
        start: The last update to keep. Lines of later ones (from before a resume) and a line cut off by a crash go.

    Raises:
        UserError: A line before the last is damaged, or the file cannot be written.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        _check_whole(path)
        keep = sum(len(line) for line, row in _rows(path) if row.get("time/iterations", 0) <= start)
        self._path = path
        try:
            if path.is_file():
                os.truncate(path, keep)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise _cannot_write(path, error) from error

    def log(self, update: int, metrics: Mapping[str, float]) -> None:
        """Appends one line.

        Raises:
            UserError: The disk is full or gone.
        """
        row = {"time/iterations": update} | {name: x for name, x in metrics.items() if math.isfinite(x)}
        try:
            self._file.write(json.dumps(row).encode() + b"\n")
        except OSError as error:
            raise _cannot_write(self._path, error) from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoardLogger:
    """TensorBoard events by environment steps, under `tensorboard/` of the run's folder.

    Args:
        folder: Where the event files go; one per process.
        step: Environment steps so far; TensorBoard hides what an earlier process wrote beyond it.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        from tensorboardX import SummaryWriter  # type: ignore[import-not-found]

        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1)

    def log(self, update: int, metrics: Mapping[str, float]) -> None:
        """Writes one point per finite metric."""
        step = int(metrics["time/total_timesteps"])
        for name, x in metrics.items():
            if math.isfinite(x):
                self._writer.add_scalar(name, x, step)
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()


class Loggers:
    """Several loggers as one, closed together at the end of a `with`."""

    def __init__(self, *loggers: Logger) -> None:
        self._loggers = loggers

    def log(self, update: int, metrics: Mapping[str, float]) -> None:
        """Hands the metrics of one update to every logger."""
        for logger in self._loggers:
            logger.log(update, metrics)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for logger in self._loggers:
            logger.close()


def check_loggers(experiment: Experiment) -> None:
    """Refuses a logger that cannot be made here, before anything is written; of several processes the lead's.

    Raises:
        UserError: tensorboardX is asked for and not installed.
    """
    if experiment.logging.tensorboard and processes.leads() and importlib.util.find_spec("tensorboardX") is None:
        raise UserError(
            "logging.tensorboard needs tensorboardX, which is not installed; "
            "pip install 'policy-gradients[tensorboard]', or turn it off."
        )


def make_loggers(experiment: Experiment, run: Path, start: int = 0) -> Loggers:
    """The loggers that an experiment asks for, continuing after update `start`; of several processes the lead's."""
    if not processes.leads():
        return Loggers()
    loggers: list[Logger] = [JsonlLogger(run / METRICS_FILE, start)]  # the first, for it may refuse to go on
    if experiment.logging.tensorboard:
        kept = read_metrics(run / METRICS_FILE)
        step = int(kept[-1].get("time/total_timesteps", 0)) if kept else 0
        loggers.append(TensorBoardLogger(run / "tensorboard", step))
    return Loggers(*loggers)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.jsonl`, oldest first; none if there is no file. A cut-off last line is not a row."""
    return [row for _, row in _rows(path)]


def _rows(path: Path) -> Iterator[tuple[bytes, dict[str, float]]]:
    """Each line with what it says, up to the first that is not whole."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                return
            if not line.endswith(b"\n") or not isinstance(row, dict):
                return
            yield line, row


def _check_whole(path: Path) -> None:
    """Refuses to go on behind a damaged line: the rows after it, which nobody has elsewhere, would be cut off."""
    if not path.is_file():
        return
    whole = sum(1 for _ in _rows(path))
    with path.open("rb") as file:
        lines = sum(1 for _ in file)
    if whole < lines - 1:
        raise UserError(
            f"{path}, line {whole + 1}: expected a row of metrics as JSON, but the line is damaged; delete it "
            "to keep the other rows, or move the file away to begin a new one."
        )


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(f"Cannot write {path}: {error.strerror}. Free or change the disk, then resume the run.")
