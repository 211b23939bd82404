"""Learning curves as numbers: read from run folders, grouped by configuration, averaged over seeds."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from policy_gradients.errors import UserError

GRID_POINTS = 200
"""At most so many points of a mean curve."""

_RESAMPLES = 1_000
_NOT_PART_OF_A_GROUP = (
    "seed",
    "devices",
    "backend",
    "checkpoint",
    "logging",
    "video",
)  # what does not change how a run learns


class Curve(NamedTuple):
    """One metric over another, where both were logged, in the order of x."""

    x: np.ndarray
    y: np.ndarray


class RunLog(NamedTuple):
    """What a run folder says."""

    path: Path
    config: Mapping[str, Any]
    rows: list[dict[str, Any]]  # one of each update

    @property
    def algorithm(self) -> str:
        return str(self.config.get("algorithm", "unknown"))

    @property
    def env_id(self) -> str:
        env = self.config.get("env")
        return str(env.get("id", "unknown") if isinstance(env, Mapping) else env)

    @property
    def seed(self) -> int | None:
        return self.config.get("seed")

    def curve(self, x: str, y: str) -> Curve:
        """The metric `y` over `x`; empty where `y` was never logged."""
        pairs = [(row[x], row[y]) for row in self.rows if _number(row.get(x)) and _number(row.get(y))]
        points = np.array(sorted(pairs), np.float64).reshape(-1, 2)
        return Curve(points[:, 0], points[:, 1])

    def last(self, name: str) -> float:
        """The latest value of a metric; NaN where it was never logged."""
        return next((float(row[name]) for row in reversed(self.rows) if _number(row.get(name))), math.nan)


class Group(NamedTuple):
    """Runs that differ only in their seed."""

    label: str
    runs: list[RunLog]


class Band(NamedTuple):
    """Mean of several curves, and the bootstrap interval of the mean."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def read_run(folder: str | Path) -> RunLog:
    """A run from its `config.yaml` and `metrics.jsonl`; a last line that was cut off is left out.

    Raises:
        UserError: A file is missing, empty or not what it should be.
    """
    folder = Path(folder)
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        name = Path(error.filename).name
        raise UserError(f"{folder} is not the folder of a run: {name} cannot be read ({error.strerror}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{folder}: config.yaml or metrics.jsonl is damaged ({type(error).__name__}).") from None
    rows = [row for number, line in enumerate(lines, 1) if (row := _row(folder, line, number, len(lines)))]
    if not isinstance(config, Mapping):
        raise UserError(f"{folder}: config.yaml should hold a mapping of settings, but holds {config!r:.40}.")
    if not rows:
        raise UserError(f"{folder}: metrics.jsonl holds nothing yet; let the run finish its first update.")
    return RunLog(folder, config, rows)


def group_runs(runs: Sequence[RunLog]) -> list[Group]:
    """Runs of one environment, put together where they differ only in their seed.

    A group is named after its algorithm, and after the settings in which it differs from others of that algorithm.
    """
    settings = [_settings(run.config) for run in runs]
    together: dict[str, list[int]] = {}
    for i, setting in enumerate(settings):
        together.setdefault(json.dumps(setting, sort_keys=True, default=str), []).append(i)
    groups = []
    for members in together.values():
        rivals = [
            settings[other[0]] for other in together.values() if runs[other[0]].algorithm == runs[members[0]].algorithm
        ]
        label = _label(runs[members[0]], settings[members[0]], rivals)
        groups.append(Group(label, [runs[i] for i in members]))
    return groups


def average(curves: Sequence[Curve], seed: int = 0) -> Band:
    """The mean over several curves where all of them are known, by linear interpolation between their points.

    The band is the 95 % percentile bootstrap interval of the mean over curves.
    """
    start, end = max(curve.x[0] for curve in curves), min(curve.x[-1] for curve in curves)
    grid = np.unique(np.concatenate([curve.x for curve in curves]))
    grid = grid[(grid >= start) & (grid <= end)]
    if grid.size > GRID_POINTS:
        grid = np.linspace(start, end, GRID_POINTS)
    values = np.stack([np.interp(grid, curve.x, curve.y) for curve in curves])
    draws = np.random.default_rng(seed).integers(0, len(curves), (_RESAMPLES, len(curves)))
    shares = np.stack([np.bincount(draw, minlength=len(curves)) for draw in draws]) / len(curves)
    low, high = np.quantile(shares @ values, [0.025, 0.975], axis=0)
    return Band(grid, values.mean(axis=0), low, high)


def _row(folder: Path, line: str, number: int, count: int) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if isinstance(row, dict):
        return row
    if number == count:
        return None
    raise UserError(f"{folder}: line {number} of metrics.jsonl is not a JSON object; the file is damaged.")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that make a group, by dotted path."""
    flat: dict[str, Any] = {}

    def flatten(mapping: Mapping[str, Any], prefix: str) -> None:
        for name, value in mapping.items():
            if isinstance(value, Mapping):
                flatten(value, f"{prefix}{name}.")
            else:
                flat[prefix + str(name)] = value

    flatten({name: value for name, value in config.items() if name not in _NOT_PART_OF_A_GROUP}, "")
    return flat


def _label(run: RunLog, own: Mapping[str, Any], rivals: Sequence[Mapping[str, Any]]) -> str:
    names = [name for name in own if any(other.get(name) != own[name] for other in rivals)]
    if not names:
        return run.algorithm.upper()
    differences = ", ".join(f"{name.rpartition('.')[2]} {own[name]}" for name in names)
    return f"{run.algorithm.upper()}, {differences if len(names) <= 2 else run.path.name}"
