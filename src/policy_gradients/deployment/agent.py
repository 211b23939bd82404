"""What a bundle takes from a trained agent: its description, and the tensors of the half that acts."""

import contextlib
import importlib.metadata
import math
import platform
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from policy_gradients.environments.base import Box, EnvironmentSpec
    from policy_gradients.estimation.normalization import NormalizationConfig, Statistics
    from policy_gradients.networks.actor_critic import NetworkConfig

_VARIANCE_EPSILON = 1e-8  # of `estimation.normalization`


def describe_agent(
    spec: "EnvironmentSpec",
    network: "NetworkConfig",
    normalization: "NormalizationConfig",
    statistics: "Statistics",
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """`policy.json` without the format's own keys, as JSON values."""
    from policy_gradients.networks.actor_critic import resolve_features

    obs = spec.obs_space
    discrete = hasattr(spec.action_space, "n")
    chosen = "categorical" if discrete else "normal"
    document = {
        "environment": {
            "id": spec.id,
            "engine": spec.engine,
            "max_episode_steps": spec.max_episode_steps,
            "dt": spec.dt or None,
            "versions": dict(spec.versions),
        },
        "observation": {
            "shape": obs.shape,
            "dtype": str(obs.dtype),
            **_bounds(obs),
            "names": spec.obs_names,
            "frames": spec.frames,
            "clip": spec.obs_clip,
        },
        "action": _describe_action(spec),
        "network": {
            "features": resolve_features(network.features, obs.shape, obs.dtype),
            "hidden": network.hidden,
            "activation": network.activation,
            "layer_norm": network.layer_norm,
            "shared_torso": network.shared_torso,
            "distribution": chosen if network.distribution == "auto" else network.distribution,
            "state_dependent_std": network.state_dependent_std,
            "log_std_init": network.log_std_init,
            "log_std_range": network.log_std_range,
        },
        "normalizer": None
        if statistics.obs is None
        else {"clip": normalization.obs_clip, "epsilon": _VARIANCE_EPSILON},
        "provenance": {**provenance, "versions": {**_versions(), **provenance.get("versions", {})}},
    }
    return _as_json(document)


def _describe_action(spec: "EnvironmentSpec") -> dict[str, Any]:
    space: Any = spec.action_space
    if hasattr(space, "n"):
        return {"kind": "discrete", "shape": (), "n": space.n, "start": space.start, "names": spec.action_names}
    control = spec.control_bounds or space
    return {
        "kind": "box",
        "shape": control.shape,
        "map": spec.action_map,
        **_bounds(control),
        "names": spec.action_names,
    }


def _bounds(space: "Box") -> dict[str, list[float | None]]:
    """A space's bounds as JSON has them: null for none, one number where all coordinates agree."""

    def listed(bound: np.ndarray) -> list[float | None]:
        values = np.unique(bound) if np.unique(bound).size == 1 else bound.reshape(-1)
        return [float(value) if math.isfinite(value) else None for value in values]

    return {"low": listed(space.low), "high": listed(space.high)}


def _as_json(value: Any) -> Any:
    """`value` in the types that JSON has; NaN and ±∞ become null."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _as_json(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("policy-gradients", "jax", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def acting_tensors(params: Any, statistics: "Statistics") -> dict[str, np.ndarray]:
    """The tensors of the policy by their names in the bundle; a shared torso belongs to it."""
    own = dict(params.get("policy", {})) if isinstance(params, Mapping) else {}
    if isinstance(params, Mapping) and "torso" in params:
        own["torso"] = params["torso"]
    tensors = dict(_flatten(own, ""))
    if statistics.obs is not None:
        tensors |= {"normalizer/mean": statistics.obs.mean, "normalizer/var": statistics.obs.var}
    return {name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}


def _flatten(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value
