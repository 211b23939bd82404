"""Dataclasses as a schema: strict reading of plain data into them, and what their docstrings say of each field.

Whatever a user sets, in YAML, in flags or in Python, passes through `Reader`, so one set of rules and one wording hold
everywhere. Text and numbers are read by the type of the field that they are meant for: PyYAML hands `1e-3` over as a
string and `1e6` could mean a count, so only the field knows.
"""

import inspect
import math
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from numbers import Real
from typing import Any, Literal, NamedTuple, Union

from policy_gradients.errors import suggest

_EXPONENT_FORM = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # numbers to YAML 1.2 that PyYAML (1.1) reads as text


class Problem(NamedTuple):
    """What is wrong with one setting."""

    path: str  # "hyperparameters.gamma"
    text: str  # "expected a number, got 'high'."


class Field(NamedTuple):
    """A setting that holds a value, not further settings."""

    path: tuple[str, ...]
    type: Any
    default: Any
    doc: str


class _Mismatch(Exception):
    """A value does not fit its type."""


@cache
def field_types(kind: type) -> dict[str, Any]:
    """The resolved annotation of every field of a dataclass."""
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)}


@cache
def field_docs(kind: type) -> dict[str, str]:
    """What the `Attributes:` section of a class says of each field, on one line."""
    section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]
    docs: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        entry = re.match(r" {4}(\w+(?:, \w+)*): (.*)", line)
        if entry:
            names = entry[1].split(", ")
            docs |= dict.fromkeys(names, entry[2])
        elif line.startswith(" " * 8):
            docs |= {name: f"{docs[name]} {line.strip()}" for name in names}
        else:
            names = []
    return docs


def leaves(instance: Any, prefix: tuple[str, ...] = ()) -> Iterator[Field]:
    """Every setting of a dataclass instance that holds a value, depth first."""
    kind = type(instance)
    for name, annotation in field_types(kind).items():
        value, path = getattr(instance, name), (*prefix, name)
        if is_dataclass(value):
            yield from leaves(value, path)
        else:
            yield Field(path, annotation, value, field_docs(kind).get(name, ""))


def to_plain(value: Any) -> Any:
    """Dataclasses as dicts and tuples as lists, all the way down; other values as they are."""
    if is_dataclass(value):
        return {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def allows_text(kind: Any) -> bool:
    """True where some text is a legal value of the type."""
    return kind is str or typing.get_origin(kind) is Literal or any(allows_text(k) for k in _members(kind))


def explain(kind: Any) -> str:
    """The type in words: 'a whole number', 'one of tanh, relu or none'."""
    named = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if kind in named:
        return named[kind]
    if typing.get_origin(kind) is Literal:
        choices = ", ".join(map(str, typing.get_args(kind)))
        return f"one of {choices}" if len(typing.get_args(kind)) > 1 else choices
    if typing.get_origin(kind) is tuple:
        items = typing.get_args(kind)
        plural = explain(items[0]).removeprefix("a ") + "s"
        return f"a list of {plural}" if items[-1] is ... else f"a list of {len(items)} {plural}"
    if _members(kind):
        words = [explain(k) for k in _members(kind) if k is not types.NoneType]
        return " or ".join([*words, "none"] if types.NoneType in _members(kind) else words)
    return "settings by name"  # a dict or a dataclass


@dataclass
class Reader:
    """Reads plain data into dataclasses and gathers everything that is wrong with it.

    A setting that is wrong keeps its default, so that the others can still be looked at.

    Attributes:
        known: Paths of all settings there are, to suggest one for a setting in the wrong place.
        problems: What was wrong so far.
    """

    known: Iterable[str] = ()
    problems: list[Problem] = field(default_factory=list)

    def settings(self, kind: type, data: Any, path: str = "", overrides: Mapping[str, type] | None = None) -> Any:
        """An instance of the dataclass `kind`.

        Args:
            kind: A dataclass whose fields all have defaults.
            data: A mapping with some of its fields. Nothing (None, as YAML has an empty section) is wrong: whoever
                wrote the section's name meant to write more, or below it what stands elsewhere.
            path: Where it stands, for messages.
            overrides: Types of fields that are chosen by other settings.
        """
        if not isinstance(data, Mapping):
            self.problems.append(_no_settings(path, data))
            data = {}
        known = field_types(kind) | dict(overrides or {})
        for name in data:
            if name not in known:
                self.problems.append(Problem(_join(path, name), f"there is no such setting.{self._hint(name, known)}"))
        values = {name: self._value(known[name], data[name], _join(path, name)) for name in data if name in known}
        return kind(**{name: value for name, value in values.items() if value is not _WRONG})

    def _hint(self, name: Any, siblings: Iterable[str]) -> str:
        elsewhere = {path.rpartition(".")[2]: path for path in self.known}
        if name in elsewhere:
            return f" Did you mean {elsewhere[name]!r}?"
        return suggest(str(name), siblings)

    def _value(self, kind: Any, data: Any, path: str) -> Any:
        if is_dataclass(kind):
            return self.settings(kind, data, path)  # type: ignore[arg-type]
        if typing.get_origin(kind) is dict:
            return self._entries(typing.get_args(kind)[1], data, path)
        if typing.get_origin(kind) is tuple and isinstance(data, list | tuple):
            return self._items(kind, data, path)
        rest = [k for k in _members(kind) if k is not types.NoneType]
        if len(rest) < len(_members(kind)):
            if data is None or (data in ("none", "None") and not any(map(allows_text, rest))):
                return None
            if len(rest) == 1 and typing.get_origin(rest[0]) is tuple:
                return self._value(rest[0], data, path)
        try:
            return _scalar(kind, data)
        except _Mismatch:
            near = suggest(data, _choices(kind)) if isinstance(data, str) else ""
            self.problems.append(Problem(path, f"expected {explain(kind)}, got {data!r}.{near}"))
            return _WRONG

    def _entries(self, kind: Any, data: Any, path: str) -> Any:
        if not isinstance(data, Mapping):
            self.problems.append(_no_settings(path, data))
            return _WRONG
        read = {str(name): self._value(kind, value, _join(path, name)) for name, value in data.items()}
        return _WRONG if _WRONG in read.values() else read

    def _items(self, kind: Any, data: Any, path: str) -> Any:
        items = typing.get_args(kind)
        if items[-1] is not ... and len(items) != len(data):
            self.problems.append(Problem(path, f"expected {explain(kind)}, got {list(data)!r}."))
            return _WRONG
        read = tuple(self._value(items[0], value, f"{path}[{i}]") for i, value in enumerate(data))
        return _WRONG if _WRONG in read else read


_WRONG = object()  # stands for a value that could not be read


def _no_settings(path: str, data: Any) -> Problem:
    came = "nothing; write some below it, or leave it out" if data is None else repr(data)
    return Problem(path, f"expected settings by name, got {came}.")


def _join(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)


def _members(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (Union, types.UnionType) else ()


def _choices(kind: Any) -> list[str]:
    kinds = _members(kind) or (kind,)
    return [str(choice) for k in kinds if typing.get_origin(k) is Literal for choice in typing.get_args(k)]


def _scalar(kind: Any, data: Any) -> bool | int | float | str:
    if _members(kind):
        return _one_of([k for k in _members(kind) if k is not types.NoneType], data)
    if typing.get_origin(kind) is Literal and isinstance(data, str) and data in typing.get_args(kind):
        return data
    if (kind is str and isinstance(data, str)) or (kind is bool and isinstance(data, bool)):
        return data
    if kind is float:
        return _number(data)
    if kind is int:
        return data if type(data) is int else _whole(_number(data))
    raise _Mismatch


def _one_of(kinds: list[Any], data: Any) -> bool | int | float | str:
    """The value as the one of several types that it is already, or as the only one, or as the only one but names."""
    if len(kinds) == 1:
        return _scalar(kinds[0], data)
    named = [kind for kind in kinds if typing.get_origin(kind) is Literal]
    if len(named) == len(kinds) - 1:
        known = any(data in typing.get_args(kind) for kind in named if isinstance(data, str))
        return data if known else _scalar(next(kind for kind in kinds if kind not in named), data)
    if float in kinds and isinstance(data, str) and _EXPONENT_FORM.fullmatch(data):
        return float(data)
    if type(data) in kinds:
        return data
    raise _Mismatch


def _number(data: Any) -> float:
    if isinstance(data, bool) or not isinstance(data, Real | str):
        raise _Mismatch
    try:
        number = float(data)
    except ValueError:
        raise _Mismatch from None
    if not math.isfinite(number):
        raise _Mismatch
    return number


def _whole(number: float) -> int:
    if not number.is_integer():
        raise _Mismatch
    return int(number)
