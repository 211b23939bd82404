"""What a sweep may change: settings with the choices or the interval that each is drawn from, read from YAML."""

import json
import math
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from policy_gradients.errors import UserError, suggest
from policy_gradients.training.config import CONFIGS, Experiment, load_mapping
from policy_gradients.training.rules import RANGES
from policy_gradients.training.schema import Reader, field_types, leaves

_SECTIONS = ("hyperparameters", "env", "network")  # what decides how a run learns
_SHORT = ("hyperparameters", "env")  # sections whose names need not be said, as in flags
_OF_A_GAUSSIAN = ("network.log_std_init", "eps_std")  # without effect on choices
_FORMS = "expected a list of choices, or {low: …, high: …} with or without log: true"


class Choice(NamedTuple):
    """One of several values."""

    path: tuple[str, ...]
    values: tuple[Any, ...]

    @property
    def labels(self) -> list[Any]:
        """The values as Optuna stores them: scalars as they are, anything else as text."""
        return [x if x is None or isinstance(x, bool | int | float | str) else json.dumps(x) for x in self.values]

    def suggest(self, trial: Any) -> Any:
        """The trial's value, drawn where it has none yet."""
        return self.value(trial.suggest_categorical(".".join(self.path), self.labels))

    def value(self, label: Any) -> Any:
        """The value of which Optuna stores the label."""
        return self.values[self.labels.index(label)]

    def label(self, value: Any) -> Any:
        """What Optuna stores of the value; None where it is not a choice."""
        return self.labels[self.values.index(value)] if value in self.values else None


class Interval(NamedTuple):
    """A number between two others, drawn evenly or evenly in its logarithm."""

    path: tuple[str, ...]
    low: float
    high: float
    log: bool
    whole: bool

    def suggest(self, trial: Any) -> float:
        """The trial's value, drawn where it has none yet."""
        draw = trial.suggest_int if self.whole else trial.suggest_float
        return draw(".".join(self.path), self.low, self.high, log=self.log)

    def value(self, label: float) -> float:
        """The label itself: numbers are stored as they are."""
        return label

    def label(self, value: Any) -> Any:
        """The value itself; None where it lies outside."""
        return value if value is not None and self.low <= value <= self.high else None


Space: TypeAlias = tuple[Choice | Interval, ...]


def default_space(algorithm: str, *, discrete: bool) -> dict[str, Any]:
    """The space that suits an algorithm on most tasks, as YAML has it.

    Args:
        algorithm: Its name.
        discrete: Whether actions are choices: what shapes a Gaussian alone is left out.
    """
    space = load_mapping(Path(__file__).parent / "sweeps" / f"{algorithm}.yaml")
    return {name: what for name, what in space.items() if not (discrete and name in _OF_A_GAUSSIAN)}


def read_space(mapping: Mapping[str, Any], experiment: Experiment, source: str) -> Space:
    """The space that plain data describes.

    Args:
        mapping: A list of choices, or {low, high, log}, by a setting's name ("learning_rate", "network.hidden").
        experiment: Whose settings they are.
        source: Where the mapping came from, for messages.

    Raises:
        UserError: A name, a value or a bound is wrong, or there is nothing to change.
    """
    if not mapping:
        raise UserError(f"{source}: there is nothing to tune; name at least one setting (learning_rate: [1e-4, 1e-3]).")
    space = tuple(_dimension(str(name), what, experiment, source) for name, what in mapping.items())
    paths = [dimension.path for dimension in space]
    for path in paths:
        if paths.count(path) > 1:
            raise UserError(f"{source}: {'.'.join(path)} is given twice, by its short and its full name; keep one.")
    return space


def to_plain_space(space: Space) -> dict[str, Any]:
    """The space as plain data; `read_space` reads it back equal."""
    plain: dict[str, Any] = {}
    for dimension in space:
        if isinstance(dimension, Choice):
            what: Any = [list(value) if isinstance(value, tuple) else value for value in dimension.values]
        else:
            what = {"low": dimension.low, "high": dimension.high, "log": dimension.log}
        plain[".".join(dimension.path)] = what
    return plain


def nest(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """{"a": {"b": value}} for ("a", "b")."""
    return reduce(lambda inner, name: {name: inner}, reversed(path), value)


def setting(experiment: Experiment, path: tuple[str, ...]) -> Any:
    """The value that an experiment has for a setting."""
    return reduce(getattr, path, experiment)


def is_number(experiment: Experiment, path: tuple[str, ...]) -> bool:
    """True for a hyperparameter that a compiled program can take as an argument: a float that shapes nothing."""
    section, *name = path
    kinds = field_types(type(experiment.hyperparameters))
    return section == "hyperparameters" and len(name) == 1 and kinds[name[0]] is float


def _dimension(name: str, what: Any, experiment: Experiment, source: str) -> Choice | Interval:
    path = _path(name, experiment, source)
    place = f"{source}: {name}"
    if isinstance(what, list) and what:
        return Choice(path, tuple(_value(path, value, experiment, place) for value in what))
    if not isinstance(what, Mapping) or not {"low", "high"} <= set(what) <= {"low", "high", "log"}:
        raise UserError(f"{place}: {_FORMS}, got {what!r}.")
    low, high = (_value(path, what[end], experiment, place) for end in ("low", "high"))
    log = what.get("log", False)
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (low, high))
    if not numbers or not isinstance(log, bool):
        raise UserError(f"{place}: {_FORMS}, got {what!r}.")
    if low >= high or (log and low <= 0):
        raise UserError(f"{place}: expected low < high{', both above 0 for log' if log else ''}, got {low} and {high}.")
    return Interval(path, low, high, log, whole=isinstance(low, int))


def _path(name: str, experiment: Experiment, source: str) -> tuple[str, ...]:
    paths = [leaf.path for leaf in leaves(experiment) if leaf.path[0] in _SECTIONS and leaf.path != ("env", "id")]
    known = {".".join(path): path for path in paths}
    known |= {".".join(path[1:]): path for path in paths if path[0] in _SHORT}
    if name not in known:
        raise UserError(
            f"{source}: {experiment.algorithm} has no setting {name!r} that can be tuned.{suggest(name, known)}"
        )
    return known[name]


def _value(path: tuple[str, ...], value: Any, experiment: Experiment, place: str) -> Any:
    """The value with the setting's type, checked alone: what it may not be together with others, each trial finds."""
    reader = Reader()
    kind = CONFIGS[experiment.algorithm]
    read = reader.settings(Experiment, nest(path, value), overrides={"hyperparameters": kind})
    if reader.problems:
        raise UserError(f"{place}: {reader.problems[0].text}")
    value, limits = setting(read, path), RANGES.get(".".join(path))
    numbers = value if isinstance(value, tuple) else (value,)
    if limits and any(x is not None and not (math.isfinite(x) and limits.holds(x)) for x in numbers):
        raise UserError(f"{place}: expected {limits.words}, got {value!r}.")
    return value
