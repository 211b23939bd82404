"""Presets: settings known to work for a task, kept as YAML beside this file and laid under what the user sets."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from policy_gradients import backend
from policy_gradients.environments.registry import PREFIXES, settle
from policy_gradients.environments.suites import SUITES
from policy_gradients.errors import UserError, suggest
from policy_gradients.training.config import EnvironmentConfig, Experiment, load_mapping, parse_experiment


class Preset(NamedTuple):
    """Settings for some environments."""

    name: str
    environments: tuple[str, ...]  # patterns of ids, * for anything
    source: str  # where the numbers come from, in one line
    settings: dict[str, Any]  # sparse, nested as in an Experiment
    gpu: dict[str, Any] | None = None  # source and settings that are laid over these where a GPU steps the environments

    def on_gpu(self) -> "Preset":
        """The preset for environments on a GPU; itself where it says nothing of them."""
        if not self.gpu:
            return self
        settings = merge(self.settings, self.gpu["settings"])
        return Preset(f"{self.name} on a GPU", self.environments, self.gpu["source"], settings)


@cache
def presets(algorithm: str) -> tuple[Preset, ...]:
    """All presets of an algorithm, in the order in which they are tried."""
    file = Path(__file__).parent / "presets" / f"{algorithm}.yaml"
    if not file.is_file():
        return ()
    found: dict[str, Preset] = {}
    for name, entry in load_mapping(file).items():
        base = found[entry["extends"]] if "extends" in entry else None
        settings = merge(base.settings if base else {}, entry["settings"])
        gpu = merge((base and base.gpu) or {}, entry.get("gpu") or {}) or None
        found[name] = Preset(name, tuple(entry["environments"]), entry["source"], settings, gpu)
    return tuple(found.values())


def find_preset(algorithm: str, env_id: str) -> Preset | None:
    """The first preset that matches an environment's id; an engine's prefix does not count."""
    engine, _, name = env_id.partition(":")
    name = name if engine in PREFIXES else env_id
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


def compose(*layers: Mapping[str, Any], preset: str = "auto", source: str = "") -> tuple[Experiment, Preset | None]:
    """The experiment that layers of settings describe, later ones winning, over a preset, over the defaults.

    Args:
        *layers: Sparse settings, nested as in an Experiment.
        preset: "auto" for the one of the environment, "none", or a name.
        source: Where the layers came from, for messages.

    Returns:
        The experiment, and the preset that it stands on, if any.

    Raises:
        UserError: Settings are wrong, or there is no such preset.
    """
    asked = merge(*layers)
    algorithm, env = asked.get("algorithm", Experiment.algorithm), asked.get("env")
    env_id = env.get("id", EnvironmentConfig.id) if isinstance(env, Mapping) else EnvironmentConfig.id
    found = None
    if preset == "auto":
        found = find_preset(str(algorithm), str(env_id))
    elif preset != "none":
        found = get_preset(str(algorithm), preset)
    if (
        found is not None
        and found.gpu
        and isinstance(env, Mapping)
        and asked.get("backend") != "cpu"
        and _steps_on_gpu(env)
    ):
        found = found.on_gpu()
    return parse_experiment(merge(found.settings if found else {}, asked), source), found


def _steps_on_gpu(env: Mapping[str, Any]) -> bool:
    """True where these settings of an environment, not yet checked, leave it to a GPU."""
    num_envs = env.get("num_envs")
    try:
        worlds = None if num_envs is None else int(float(num_envs))
        engine, _ = settle(env.get("id", EnvironmentConfig.id), env.get("engine", EnvironmentConfig.engine), worlds)
    except (UserError, TypeError, ValueError, OverflowError):
        return False  # what is wrong is said when the settings are read
    if engine not in ("jax", *SUITES):
        return engine == "warp"
    return backend.platform() == "gpu"


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one; where two name the same setting, the later layer wins."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            before = merged.get(name)
            if isinstance(before, Mapping) and isinstance(value, Mapping):
                value = merge(before, value)
            merged[name] = value
    return merged
