"""Presets: settings known to work for a task, kept as YAML beside this file and laid under what the user sets."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from policy_gradients.errors import UserError, suggest
from policy_gradients.training.config import load_mapping

ENGINES = ("jax", "mujoco", "envpool", "gymnasium")


class Preset(NamedTuple):
    """Settings for some environments."""

    name: str
    environments: tuple[str, ...]  # patterns of ids, * for anything
    source: str  # where the numbers come from, in one line
    settings: dict[str, Any]  # sparse, nested as in an Experiment


@cache
def presets(algorithm: str) -> tuple[Preset, ...]:
    """All presets of an algorithm, in the order in which they are tried."""
    file = Path(__file__).parent / "presets" / f"{algorithm}.yaml"
    if not file.is_file():
        return ()
    return tuple(
        Preset(name, tuple(entry["environments"]), entry["source"], entry["settings"])
        for name, entry in load_mapping(file).items()
    )


def find_preset(algorithm: str, env_id: str) -> Preset | None:
    """The first preset that matches an environment's id; an engine's prefix does not count."""
    engine, _, name = env_id.partition(":")
    name = name if engine in ENGINES else env_id
    matching = (p for p in presets(algorithm) if any(fnmatchcase(name, pattern) for pattern in p.environments))
    return next(matching, None)


def get_preset(algorithm: str, name: str) -> Preset:
    """The preset of that name, in any case.

    Raises:
        UserError: There is none.
    """
    known = {preset.name.lower(): preset for preset in presets(algorithm)}
    if name.lower() not in known:
        names = [preset.name for preset in known.values()]
        raise UserError(
            f"--preset: {algorithm} has no preset {name!r}; expected none or one of {', '.join(names)}."
            f"{suggest(name, names)}"
        )
    return known[name.lower()]


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one; where two name the same setting, the later layer wins."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            before = merged.get(name)
            both = isinstance(before, Mapping) and isinstance(value, Mapping)
            merged[name] = merge(before, value) if both else value
    return merged
