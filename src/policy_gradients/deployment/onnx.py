"""The policy as an ONNX graph: observation in, action in the simulator's own units out, the normaliser inside.

Operator set 17 and IR version 8, which runtimes of 2022 and later load. Needs the extra `export`.
"""

import contextlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policy_gradients.deployment.bundle import Bundle
from policy_gradients.deployment.description import ActionDescription, PolicyDescription, shown
from policy_gradients.deployment.layers import (
    LAYER_NORM_EPSILON,
    Activation,
    Clip,
    Convolution,
    Dense,
    Layer,
    LayerNorm,
    Normalize,
    policy_layers,
)
from policy_gradients.deployment.numpy_network import control_constants, stretched_head
from policy_gradients.errors import UserError

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET, IR_VERSION = 17, 8


def onnx_model(
    bundle: Bundle,
    *,
    stochastic: bool = False,
    distribution: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> "ModelProto":
    """The policy as a checked ONNX model.

    Inputs are `obs` [batch, *obs] and, for a stochastic graph, `noise`: [batch, A] standard normal, or [batch, n]
    standard Gumbel for discrete actions. (A generator of random numbers is not part of a policy: whoever acts brings
    one.) The first output is `action`, float32 [batch, A] or int64 [batch].

    Args:
        bundle: What to export.
        stochastic: Draw the action with `noise` instead of taking the most likely one.
        distribution: Also put out `mean` and `log_std`, or `logits`.
        metadata: More entries for the model's metadata; they win over those of the bundle.

    Raises:
        UserError: The package `onnx` is not installed.
    """
    helper = _require_onnx()
    graph = _Graph()
    if stochastic or distribution or bundle.description.action.map != "clip":
        outputs = _act(graph, bundle, _network(graph, bundle, bundle.tensors), stochastic)
    else:  # the stretching is linear, so the head can do it: two nodes less
        head = _network(graph, bundle, stretched_head(bundle.description.action, bundle.tensors))
        outputs = {"action": _bounded(graph, bundle.description.action, head)}
    model = helper.make_model(
        graph.build(bundle.description, outputs if distribution else {"action": outputs["action"]}, stochastic),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="policy-gradients",
    )
    helper.set_model_props(model, {**bundle_metadata(bundle.description), **_as_text(metadata or {})})
    import onnx

    onnx.checker.check_model(model, full_check=True)
    return model


def write_onnx(bundle: Bundle, path: str | Path, **options: Any) -> Path:
    """Writes `onnx_model` to a file, whole or not at all; its path.

    Raises:
        UserError: As `onnx_model`, or the file cannot be written.
    """
    path = Path(path)
    write_files({path: onnx_model(bundle, **options).SerializeToString()})
    return path


def write_files(files: Mapping[Path, bytes]) -> None:
    """Writes files beside their places and moves them there once all are complete, so a full disk leaves the old ones.

    Raises:
        UserError: One cannot be written.
    """
    new, path = {}, Path()  # final places by the names beside them
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not path.is_file():  # a device or a pipe, which must not be replaced
                path.write_bytes(data)
                continue
            place = Path(os.path.realpath(path))
            beside = place.with_name(f".{place.name}.{os.getpid()}.new")
            new[beside] = place
            beside.write_bytes(data)
        for beside, place in new.items():
            beside.replace(place)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from None
    finally:
        for beside in new:
            with contextlib.suppress(OSError):
                beside.unlink()


def bundle_metadata(description: PolicyDescription) -> dict[str, str]:
    """What field runtimes read of a model: names, bounds, period; lists are comma-separated."""
    action, environment = description.action, description.environment
    origin = description.provenance
    found = {
        "environment": environment.id,
        "dt": environment.dt,
        "observation_names": description.observation.names,
        "joint_names": action.names if action.kind == "box" else (),
        "action_names": action.names,
        "action_low": action.low,
        "action_high": action.high,
        "observation_frames": description.observation.frames,
        **{name: origin.get(name) for name in ("algorithm", "total_timesteps", "mean_reward", "config_hash")},
    }
    return _as_text({name: value for name, value in found.items() if value not in (None, ())})


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Metadata from a YAML file: names with a number, a text or a list of them.

    Raises:
        UserError: There is no such file, or something else is in it.
    """
    import yaml

    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except Exception as error:  # of a value that its tag does not fit, PyYAML passes on whatever Python raises
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(f"{path} cannot be read as YAML ({reason}).") from None
    for name, value in document.items() if isinstance(document, dict) else [(None, document)]:
        items = value if isinstance(value, list) else [value]
        if not isinstance(name, str) or not all(map(_is_plain, [name, *items])):
            raise UserError(
                f"{path}: expected names with a number, a text or a list of them, not {shown(name)}: {shown(value)}."
            )
    return document


def _is_plain(value: Any) -> bool:
    """Whether the model's metadata can hold a value as text: not half a surrogate pair, not endless digits."""
    try:
        return isinstance(value, str | int | float) and str(value).encode() is not None
    except ValueError:
        return False


def _as_text(metadata: Mapping[str, Any]) -> dict[str, str]:
    def text(value: Any) -> str:
        return ",".join(map(text, value)) if isinstance(value, list | tuple) else "" if value is None else str(value)

    return {name: text(value) for name, value in metadata.items()}


def _require_onnx() -> Any:
    try:
        import onnx.helper
    except ImportError:
        raise UserError("ONNX export needs the package onnx: pip install 'policy-gradients[export]'.") from None
    return onnx.helper


class _Graph:
    """Nodes and constants in the order in which they are added; every method returns the name of what it adds."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A node; the name of its output, or the names of its outputs."""
        import onnx.helper

        names = [f"{kind.lower()}_{len(self._nodes)}_{i}" for i in range(outputs)]
        self._nodes.append(onnx.helper.make_node(kind, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, values: Any, dtype: type = np.float32) -> str:
        """An initialiser."""
        import onnx.numpy_helper

        name = f"constant_{len(self._constants)}"
        self._constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(np.asarray(values, dtype)), name))
        return name

    def build(self, description: PolicyDescription, outputs: Mapping[str, str], stochastic: bool) -> Any:
        """The graph with its inputs and outputs under their own names."""
        from onnx import TensorProto, helper

        obs, action = description.observation, description.action
        size = action.n if action.kind == "discrete" else math.prod(action.shape)
        kind = TensorProto.UINT8 if obs.dtype == "uint8" else TensorProto.FLOAT
        inputs = [helper.make_tensor_value_info("obs", kind, ["batch", *obs.shape])]
        if stochastic:
            inputs.append(helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["batch", size]))
        infos = []
        for name, source in outputs.items():
            self._rename(source, name)
            chosen = name == "action" and action.kind == "discrete"
            kind, shape = (TensorProto.INT64, ["batch"]) if chosen else (TensorProto.FLOAT, ["batch", size])
            infos.append(helper.make_tensor_value_info(name, kind, shape))
        return helper.make_graph(self._nodes, "policy", inputs, infos, self._constants)

    def _rename(self, old: str, new: str) -> None:
        """Gives a node's output its public name, everywhere."""
        for node in self._nodes:
            _rename_in(node.input, old, new)
            _rename_in(node.output, old, new)


def _rename_in(names: Any, old: str, new: str) -> None:
    for i, name in enumerate(names):
        if name == old:
            names[i] = new


def _network(graph: _Graph, bundle: Bundle, tensors: Mapping[str, np.ndarray]) -> str:
    """Observation to the head's outputs."""
    description = bundle.description
    x, size = "obs", math.prod(description.observation.shape)
    if description.observation.dtype == "uint8":
        x = graph.add("Cast", x, to=1)
    if description.network.features == "cnn":
        x = graph.add("Transpose", x, perm=[0, 3, 1, 2])
    elif len(description.observation.shape) != 1:
        x = graph.add("Reshape", x, graph.constant([-1, size], np.int64))
    layers = policy_layers(description, tensors)
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        x = _layer(graph, layer, x)
        if isinstance(layer, Convolution) and not isinstance(following, Convolution):
            x = graph.add("Transpose", x, perm=[0, 2, 3, 1])  # flattened as the networks do: channels last
            x = graph.add("Reshape", x, graph.constant([-1, math.prod(layer.out_shape)], np.int64))
    return x


def _layer(graph: _Graph, layer: Layer, x: str) -> str:
    match layer:
        case Clip(bound):
            return graph.add("Clip", x, graph.constant(-bound), graph.constant(bound))
        case Normalize(mean, scale, clip):
            centred = graph.add("Sub", x, graph.constant(mean))
            scaled = graph.add("Mul", centred, graph.constant(scale))
            return graph.add("Clip", scaled, graph.constant(-clip), graph.constant(clip))
        case Convolution(weight, bias, stride):
            filters = graph.constant(weight.transpose(3, 2, 0, 1))
            y = graph.add("Conv", x, filters, graph.constant(bias), strides=[stride, stride])
            return graph.add("Relu", y)
        case Dense(weight, bias):
            return graph.add("Gemm", x, graph.constant(weight), graph.constant(bias))
        case LayerNorm(scale, offset):
            constants = graph.constant(scale), graph.constant(offset)
            return graph.add("LayerNormalization", x, *constants, axis=-1, epsilon=LAYER_NORM_EPSILON)
        case Activation(name):
            return _activation(graph, name, x)


def _activation(graph: _Graph, name: str, x: str) -> str:
    if name in ("silu", "swish"):
        return graph.add("Mul", x, graph.add("Sigmoid", x))
    if name == "gelu":
        bounded = graph.add("Clip", x, graph.constant(-10), graph.constant(10))  # a cube cannot overflow
        cube = graph.add("Mul", graph.add("Mul", bounded, bounded), bounded)
        inner = graph.add("Add", bounded, graph.add("Mul", cube, graph.constant(0.044715)))
        curve = graph.add("Tanh", graph.add("Mul", inner, graph.constant(math.sqrt(2 / math.pi))))
        gate = graph.add("Mul", graph.add("Add", curve, graph.constant(1)), graph.constant(0.5))
        return graph.add("Mul", x, gate)
    if name == "leaky_relu":
        return graph.add("LeakyRelu", x, alpha=0.01)
    return graph.add({"tanh": "Tanh", "relu": "Relu", "elu": "Elu", "softplus": "Softplus"}[name], x)


def _act(graph: _Graph, bundle: Bundle, out: str, stochastic: bool) -> dict[str, str]:
    """The graph's outputs by name, from those of the head."""
    description, network = bundle.description, bundle.description.network
    if network.distribution == "categorical":
        drawn = graph.add("Add", out, "noise") if stochastic else out
        index = graph.add("ArgMax", drawn, axis=-1, keepdims=0)
        return {"action": graph.add("Add", index, graph.constant(description.action.start, np.int64)), "logits": out}
    low, high = network.log_std_range
    if network.state_dependent_std:
        size = math.prod(description.action.shape)
        mean, raw = graph.add("Split", out, graph.constant([size, size], np.int64), outputs=2, axis=-1)
        shifted = graph.add("Add", raw, graph.constant(network.log_std_init))
        log_std = graph.add("Clip", shifted, graph.constant(low), graph.constant(high))
    else:
        mean = out
        log_std = graph.add(
            "Expand", graph.constant(bundle.tensors["log_std"].clip(low, high)), graph.add("Shape", mean)
        )
    u = graph.add("Add", mean, graph.add("Mul", graph.add("Exp", log_std), "noise")) if stochastic else mean
    return {"action": _control(graph, description.action, u), "mean": mean, "log_std": log_std}


def _control(graph: _Graph, action: ActionDescription, u: str) -> str:
    _, _, half, centre = control_constants(action)
    if action.map != "none":
        squashed = graph.add("Tanh", u) if action.map == "tanh" else u
        u = graph.add("Add", graph.add("Mul", squashed, graph.constant(half)), graph.constant(centre))
    return _bounded(graph, action, u)


def _bounded(graph: _Graph, action: ActionDescription, u: str) -> str:
    low, high, _, _ = control_constants(action)
    if (low == low[0]).all() and (high == high[0]).all():
        return graph.add("Clip", u, graph.constant(low[0]), graph.constant(high[0]))
    return graph.add("Max", graph.add("Min", u, graph.constant(high)), graph.constant(low))
