"""What `policy.json` says of a policy: frozen dataclasses, and the strict reader that refuses anything else.

Nothing here is executed or imported on the word of the file: every field has a fixed type, every name is one of a
known list and every size is bounded before an array of that size is made.
"""

import dataclasses
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from policy_gradients.errors import UserError, suggest

FORMAT = "policy-gradients/policy"
FORMAT_VERSION = 1
MAX_ELEMENTS = 1 << 28
"""Most numbers in one policy or one space: 1 GiB of float32."""

_LONGEST_ID = 256  # characters; sentences print it
_LONGEST_SHOWN = 60  # characters of a value in a sentence

_LARGEST = 3.4028234663852886e38  # of float32, in which runtimes compute

CNN_LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""Filters, kernel and stride of `"features": "cnn"`, as `networks.features.NATURE_LAYERS`."""
CNN_FEATURES = 512
"""Width of the dense layer behind them."""

Bounds: TypeAlias = tuple[float | None, ...]  # one number for all coordinates or one for each; null is unbounded


@dataclass(frozen=True)
class EnvironmentDescription:
    """Where the policy was trained; `dt` is in seconds of simulated time per action."""

    id: str
    engine: str
    max_episode_steps: int | None
    dt: float | None
    versions: Mapping[str, str]


@dataclass(frozen=True)
class ObservationDescription:
    """One observation, as the policy takes it.

    Attributes:
        shape: Of stacked frames, all of them, joined along the last axis, oldest first.
        frames: How many observations of the simulator one holds; above 1, whoever acts stacks them
            (`acting.FrameStack`). An episode begins with its first observation repeated.
        clip: Bound of every raw coordinate, or None; every runtime clips by itself.
    """

    shape: tuple[int, ...]
    dtype: Literal["float32", "uint8"]
    low: Bounds
    high: Bounds
    names: tuple[str, ...] = ()
    frames: int = 1
    clip: float | None = None


@dataclass(frozen=True)
class ActionDescription:
    """One action, as the simulator expects it.

    Attributes:
        kind: "box" (real vectors) or "discrete" (the integers start … start + n − 1).
        shape: (A,) of a box, () of a discrete action.
        map: From a drawn u to the simulator's action: "none" (u clipped to [low, high]), "clip" (u clipped to
            [−1, 1], then stretched to [low, high]) or "tanh" (tanh u, then stretched).
        low, high: The simulator's own bounds.
    """

    kind: Literal["box", "discrete"]
    shape: tuple[int, ...]
    map: Literal["none", "clip", "tanh"] = "none"
    low: Bounds = ()
    high: Bounds = ()
    n: int = 0
    start: int = 0
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class NormalizerDescription:
    """Inputs are (obs − mean) / √(var + epsilon), clipped to [−clip, clip]; mean and var are tensors."""

    clip: float
    epsilon: float


@dataclass(frozen=True)
class NetworkDescription:
    """The half of `networks.NetworkConfig` that acts, with every "auto" resolved."""

    features: Literal["mlp", "cnn"]
    hidden: tuple[int, ...]
    activation: Literal["tanh", "relu", "elu", "gelu", "silu", "swish", "leaky_relu", "softplus"]
    layer_norm: bool
    shared_torso: bool
    distribution: Literal["normal", "tanh_normal", "categorical"]
    state_dependent_std: bool
    log_std_init: float
    log_std_range: tuple[float, float]


@dataclass(frozen=True)
class PolicyDescription:
    """All of `policy.json` but the file hashes.

    `provenance` says where the policy comes from (algorithm, seed, total_timesteps, mean_reward, config_hash, versions
    of libraries); a runtime does not read it.
    """

    environment: EnvironmentDescription
    observation: ObservationDescription
    action: ActionDescription
    network: NetworkDescription
    normalizer: NormalizerDescription | None
    provenance: Mapping[str, Any] = field(default_factory=dict)


def parse_description(document: Mapping[str, Any]) -> PolicyDescription:
    """The description in a decoded `policy.json`, without its keys of the format itself.

    Raises:
        UserError: A key is missing or unknown, or a value has the wrong type or size or makes no sense; the message
            holds its path.
    """
    description = _decode(document, PolicyDescription, "")
    _check(description)
    return description


def tensor_shapes(description: PolicyDescription) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the policy; all are float32.

    Raises:
        UserError: The network does not fit the observations, or is larger than `MAX_ELEMENTS`.
    """
    obs, network, action = description.observation, description.network, description.action
    shapes: dict[str, tuple[int, ...]] = {}
    size = math.prod(obs.shape)
    if network.features == "cnn":
        shapes, size = _cnn_shapes(obs.shape)
    for i, width in enumerate(network.hidden):
        shapes |= {f"torso/{i}/weight": (size, width), f"torso/{i}/bias": (width,)}
        if network.layer_norm:
            shapes |= {f"torso/{i}/norm/scale": (width,), f"torso/{i}/norm/offset": (width,)}
        size = width
    outputs = action.n if action.kind == "discrete" else math.prod(action.shape) * (1 + network.state_dependent_std)
    shapes |= {"head/weight": (size, outputs), "head/bias": (outputs,)}
    if action.kind == "box" and not network.state_dependent_std:
        shapes["log_std"] = action.shape
    if description.normalizer is not None:
        shapes |= {"normalizer/mean": obs.shape, "normalizer/var": obs.shape}
    _require(sum(map(math.prod, shapes.values())) <= MAX_ELEMENTS, "network", f"more than {MAX_ELEMENTS} numbers")
    return shapes


def _cnn_shapes(shape: tuple[int, ...]) -> tuple[dict[str, tuple[int, ...]], int]:
    height, width, depth = shape
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (filters, kernel, stride) in enumerate(CNN_LAYERS):
        shapes |= {f"torso/cnn/conv{i}/weight": (kernel, kernel, depth, filters), f"torso/cnn/conv{i}/bias": (filters,)}
        height, width, depth = (height - kernel) // stride + 1, (width - kernel) // stride + 1, filters
    _require(height > 0 and width > 0, "network.features", f"a cnn on images of only {shape}")
    dense = {"weight": (height * width * depth, CNN_FEATURES), "bias": (CNN_FEATURES,)}
    return shapes | {f"torso/cnn/dense/{name}": dims for name, dims in dense.items()}, CNN_FEATURES


def shown(value: object) -> str:
    """`value` as a sentence shows it: its repr on one line, cut where it is long."""
    brief = reprlib.Repr()
    brief.maxstring = brief.maxlong = brief.maxother = 2 * _LONGEST_SHOWN
    try:
        return _cut(brief.repr(value))
    except ValueError:  # an integer of more digits than Python prints
        return f"one {type(value).__name__} of very many digits"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"


def _check(description: PolicyDescription) -> None:
    """What types alone do not say."""
    _check_environment(description.environment)
    _check_observation(description.observation)
    _check_action(description.action)
    obs, network, normalizer = description.observation, description.network, description.normalizer
    _check_sizes("network.hidden", network.hidden)
    _require(network.features == "mlp" or len(obs.shape) == 3, "network.features", f"a cnn on vectors of {obs.shape}")
    _require(network.features == "mlp" or obs.dtype == "uint8", "network.features", f"a cnn on {obs.dtype}")
    low, high = network.log_std_range
    _require(-100 <= low <= high <= 100, "network.log_std_range", f"{network.log_std_range}")
    kind = description.action.kind
    fits = (network.distribution == "categorical") == (kind == "discrete")
    _require(fits, "network.distribution", f"{network.distribution} for {kind} actions")
    if normalizer is not None:
        _require(normalizer.clip > 0, "normalizer.clip", f"{normalizer.clip}")
        _require(normalizer.epsilon >= 0, "normalizer.epsilon", f"{normalizer.epsilon}")
        _require(obs.dtype == "float32", "normalizer", f"one for {obs.dtype}")


def _check_environment(environment: EnvironmentDescription) -> None:
    length, steps, dt = len(environment.id), environment.max_episode_steps, environment.dt
    _require(1 <= length <= _LONGEST_ID, "environment.id", f"a text of {length} characters")
    _require(steps is None or steps >= 1, "environment.max_episode_steps", f"{steps}")
    _require(dt is None or dt > 0, "environment.dt", f"{dt}")


def _check_observation(obs: ObservationDescription) -> None:
    _check_sizes("observation.shape", obs.shape)
    size = math.prod(obs.shape)
    _require(size <= MAX_ELEMENTS, "observation.shape", f"{obs.shape}")
    _check_bounds("observation", obs.low, obs.high, size)
    _check_names("observation", obs.names, size)
    divides = obs.frames >= 1 and (obs.frames == 1 or (obs.shape != () and obs.shape[-1] % obs.frames == 0))
    _require(divides, "observation.frames", f"{obs.frames} of observations {obs.shape}")
    _require(obs.clip is None or (obs.clip > 0 and obs.dtype == "float32"), "observation.clip", f"{obs.clip}")


def _check_action(action: ActionDescription) -> None:
    if action.kind == "discrete":
        _require(action.shape == () and 1 <= action.n <= 1 << 20, "action.n", f"{action.n}")
        _require(abs(action.start) < 1 << 31, "action.start", f"{action.start}")
        _check_names("action", action.names, action.n)
        return
    _require(len(action.shape) == 1 and 1 <= action.shape[0] <= 1 << 20, "action.shape", f"{action.shape}")
    _check_bounds("action", action.low, action.high, action.shape[0])
    _check_names("action", action.names, action.shape[0])
    _require(action.map == "none" or None not in action.low + action.high, "action.map", "bounds without end")


def _check_sizes(path: str, sizes: tuple[int, ...]) -> None:
    small = len(sizes) <= 64 and all(0 < size <= MAX_ELEMENTS for size in sizes) and math.prod(sizes) <= 1 << 62
    _require(small, path, f"{sizes}")


def _check_bounds(path: str, low: Bounds, high: Bounds, size: int) -> None:
    for name, bound in (("low", low), ("high", high)):
        _require(len(bound) in (1, size), f"{path}.{name}", f"{len(bound)} bounds for {size} coordinates")
    lows, highs = (bound * (size // len(bound) if len(low) != len(high) else 1) for bound in (low, high))
    pairs = zip(lows, highs, strict=True)
    crossed = [f"{a} where high is {b}" for a, b in pairs if a is not None and b is not None and a > b]
    _require(not crossed, f"{path}.low", crossed[0] if crossed else "")


def _check_names(path: str, names: tuple[str, ...], size: int) -> None:
    _require(len(names) in (0, size), f"{path}.names", f"{len(names)} names for {size} coordinates")


def _require(condition: bool, path: str, got: str) -> None:
    if not condition:
        raise UserError(f"policy.json: {path} cannot be {_cut(got)}.")


def _decode(value: Any, kind: Any, path: str) -> Any:
    """`value`, out of JSON, as the type `kind`; refuses with the path of what does not fit."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or kind is str:
        _check_text(value, path)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(value, kind, path)
    if origin is Literal:
        if isinstance(value, str) and value in args:
            return value
        raise _mismatch(path, "one of " + ", ".join(args), value)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _decode(value, next(arg for arg in args if arg is not type(None)), path)
    if origin is tuple and isinstance(value, list | tuple):
        if args[-1] is not ... and len(value) != len(args):
            raise _mismatch(path, f"{len(args)} values", value)
        return tuple(_decode(item, args[0], f"{path}[{i}]") for i, item in enumerate(value))
    if origin is not None and isinstance(value, Mapping) and issubclass(origin, Mapping):
        _check_text(list(value), path)
        return {key: _decode(item, args[1], f"{path}.{_plain(key)}") for key, item in value.items()}
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST:
        return float(value)
    if kind in (str, bool, int) and type(value) is kind:
        return value
    raise _mismatch(path, getattr(origin or kind, "__name__", str(kind)), value)


def _decode_dataclass(value: Any, kind: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise _mismatch(path, "an object", value)
    prefix = f"{path}." if path else ""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for name in value:
        if name not in fields:
            raise UserError(f"policy.json: {prefix}{_plain(name)}: no such key.{suggest(name[:_LONGEST_ID], fields)}")
    hints = typing.get_type_hints(kind)
    decoded = {}
    for name, each in fields.items():
        if name in value:
            decoded[name] = _decode(value[name], hints[name], prefix + name)
        elif each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            raise UserError(f"policy.json: {prefix}{name}: this key is missing.")
    return kind(**decoded)


def _check_text(value: Any, path: str) -> None:
    """Refuses half a surrogate pair anywhere in a JSON value: JSON can escape one, but no file or terminal takes it."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            try:
                item.encode()
            except UnicodeEncodeError:
                raise _mismatch(path, "text that UTF-8 has", item) from None
        elif isinstance(item, Mapping):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            pending += item


def _plain(key: str) -> str:
    """A key as a path shows it."""
    return shown(key)[1:-1] if key != "" else key


def _mismatch(path: str, expected: str, value: Any) -> UserError:
    return UserError(f"policy.json: {path or 'the file'}: expected {expected}, not {shown(value)}.")
