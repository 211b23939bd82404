"""Flags for every setting of an experiment, made from the settings themselves.

Names are flat where that is unambiguous: `--learning-rate` is `hyperparameters.learning_rate`, `--num-envs` is
`env.num_envs`, `--normalization.value` is `hyperparameters.normalization.value`; the full paths work as well. Values
are text here; the experiment's own reader gives them their types, so flags and YAML obey the same rules.
"""

import textwrap
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from policy_gradients.errors import UserError, suggest
from policy_gradients.training.config import Experiment, default_experiment, load_mapping
from policy_gradients.training.preset import Preset, compose
from policy_gradients.training.schema import Field, leaves

_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_FLAT = ("hyperparameters", "env")  # sections whose names need not be said


class Given(NamedTuple):
    """What the command line says."""

    settings: dict[str, Any]  # sparse, nested as in an Experiment
    options: dict[str, str]  # of the command itself


class Request(NamedTuple):
    """What the command line asks for."""

    experiment: Experiment
    preset: Preset | None
    options: dict[str, str]
    help: bool
    settings: dict[str, Any]  # sparse: what was said here rather than in a file


def read_request(arguments: Sequence[str], options: Iterable[str]) -> Request:
    """The experiment that `[ALGORITHM] [--config FILE] [--preset NAME] [flags]` describes.

    Precedence: defaults < preset < file < flags.

    Args:
        arguments: Command line arguments after the command.
        options: The command's own options, each with one value; `--config` and `--preset` are among them.

    Raises:
        UserError: Unknown flags or settings, or wrong values.
    """
    named = {"algorithm": arguments[0]} if arguments and not arguments[0].startswith("-") else {}
    tokens = [token for token in arguments[len(named) :] if token not in ("-h", "--help")]
    given = read_flags(tokens, default_experiment(named.get("algorithm", Experiment.algorithm)), options)
    source = given.options.get("--config", "")
    file = load_mapping(Path(source)) if "--config" in given.options else {}
    preset = given.options.get("--preset", "auto")
    try:
        experiment, found = compose(file, named, given.settings, preset=preset)
    except UserError:
        compose(file, named, preset=preset, source=source)  # what is wrong without the flags is the file's
        raise
    asked_for_help = len(tokens) + len(named) < len(arguments)
    return Request(experiment, found, given.options, asked_for_help, {**named, **given.settings})


def flag_name(path: Sequence[str]) -> str:
    """'--learning-rate' for ('hyperparameters', 'learning_rate'); '--env' for the environment's id."""
    if tuple(path) == ("env", "id"):
        return "--env"
    short = path[1:] if path[0] in _FLAT else path
    return "--" + ".".join(short).replace("_", "-")


def flag_table(experiment: Experiment) -> dict[str, Field]:
    """Every setting by its flag's names, short and full, with underscores and without the leading dashes."""
    fields = [field for field in leaves(experiment) if field.path != ("algorithm",)]
    full = {".".join(field.path): field for field in fields}
    return full | {_normal(flag_name(field.path)): field for field in fields}


def read_flags(tokens: Sequence[str], experiment: Experiment, options: Iterable[str]) -> Given:
    """Reads `--name value …`, `--name=value`, and `--name` or `--no-name` for switches.

    Args:
        tokens: Command line arguments after the algorithm's name.
        experiment: Whose settings the flags are.
        options: Names of the command's own options, each with one value.

    Raises:
        UserError: Unknown flags, all of them, each with a suggestion; or the wrong number of values.
    """
    table, own = flag_table(experiment), {_normal(option): option for option in options}
    given = Given({}, {})
    unknown = []
    for flag, values in _grouped(tokens):
        name = _normal(flag)
        if name in own:
            given.options[own[name]] = _single(flag, values)
        elif name in table:
            _put(given.settings, table[name].path, _value(flag, table[name].type, values))
        elif (field := table.get(name.removeprefix("no_"))) is not None and field.type is bool:
            _put(given.settings, field.path, not _value(flag, bool, values))
        elif (task_option := name.removeprefix("env.")).startswith("kwargs."):
            _put(given.settings, ("env", "kwargs", task_option.removeprefix("kwargs.")), _guess(_single(flag, values)))
        else:
            names = ["--" + known.replace("_", "-") for known in (*table, *own)]
            unknown.append(f"there is no flag {flag}.{suggest(flag.replace('_', '-'), names)}")
    if unknown:
        raise UserError("\n  ".join(unknown))
    return given


def describe_flags(experiment: Experiment, width: int = 100) -> str:
    """One paragraph per setting: its flag, what it means, and in brackets its value in `experiment`."""
    paragraphs = []
    for field in leaves(experiment):
        if field.path in (("algorithm",), ("env", "kwargs")):  # an argument; one flag for each of its names
            continue
        text = f"{field.doc} [{_shown(field.default)}]"
        body = textwrap.fill(text, width, initial_indent=" " * 8, subsequent_indent=" " * 8)
        paragraphs.append(f"  {flag_name(field.path)}\n{body}")
    return "\n".join(paragraphs)


def _normal(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def _grouped(tokens: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each flag with the values behind it; a negative number is a value, for flags have two dashes."""
    groups: list[tuple[str, list[str]]] = []
    for token in tokens:
        if token.startswith("--"):
            flag, equals, value = token.partition("=")
            groups.append((flag, [value] if equals else []))
        elif groups:
            groups[-1][1].append(token)
        else:
            raise UserError(f"expected a flag (--name value), got {token!r}.")
    return groups


def _value(flag: str, kind: Any, values: list[str]) -> Any:
    if kind is bool:
        return _switch(flag, values)
    if any(typing.get_origin(k) is tuple for k in (kind, *typing.get_args(kind))):
        if not values:
            raise UserError(f"{flag}: expected values, got none (an empty list is {flag}= without one).")
        items = [item for value in values for item in value.split(",") if item]
        return None if items == ["none"] else items
    return _single(flag, values)


def _switch(flag: str, values: list[str]) -> bool:
    if not values:
        return True
    text = _single(flag, values).lower()
    if text not in _TRUTH:
        raise UserError(f"{flag}: expected true or false, got {text!r}.")
    return _TRUTH[text]


def _single(flag: str, values: list[str]) -> str:
    if len(values) != 1:
        raise UserError(f"{flag}: expected one value, got {' '.join(values) or 'none'}.")
    return values[0]


def _guess(text: str) -> Any:
    """The value of a task's own option, whose type nobody here knows: read as YAML reads it."""
    import yaml

    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # the latter of a date that there is not, or a number of thousands of digits
        return text
    return value if isinstance(value, bool | int | float) else text


def _put(settings: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *sections, name = path
    for section in sections:
        settings = settings.setdefault(section, {})
    settings[name] = value


def _shown(value: Any) -> str:
    """A value as one would type it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return " ".join(map(_shown, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}={_shown(item)}" for name, item in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
