"""A policy's network as a list of plain layers with their numbers: what every exporter walks through.

`numpy_network` is the same network written for NumPy's speed; a test holds both against each other.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from policy_gradients.deployment.description import CNN_LAYERS, PolicyDescription
from policy_gradients.deployment.numpy_network import divided_pixels


@dataclass(frozen=True)
class Clip:
    """x clipped to [−bound, bound]: raw observations where the run asked for it."""

    bound: float


@dataclass(frozen=True)
class Normalize:
    """(x − mean) · scale, clipped to [−clip, clip]; `scale` is 1 / √(var + ε)."""

    mean: np.ndarray  # [N]
    scale: np.ndarray  # [N]
    clip: float


@dataclass(frozen=True)
class Convolution:
    """A convolution without padding over an image [H, W, C], followed by ReLU.

    Attributes:
        weight: [K, K, C, F].
        bias: [F].
        stride: Between two windows, in both directions.
        height, width: H and W of the input.
    """

    weight: np.ndarray
    bias: np.ndarray
    stride: int
    height: int
    width: int

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """(H′, W′, F) of the output."""
        kernel = self.weight.shape[0]
        across = lambda size: (size - kernel) // self.stride + 1  # noqa: E731
        return across(self.height), across(self.width), self.weight.shape[3]


@dataclass(frozen=True)
class Dense:
    """x W + b."""

    weight: np.ndarray  # [N, M]
    bias: np.ndarray  # [M]


@dataclass(frozen=True)
class LayerNorm:
    """(x − mean(x)) / √(var(x) + 1e-5) · scale + offset."""

    scale: np.ndarray  # [N]
    offset: np.ndarray  # [N]


@dataclass(frozen=True)
class Activation:
    """A function of each coordinate, by its name in `NetworkDescription`."""

    name: str


Layer: TypeAlias = Clip | Normalize | Convolution | Dense | LayerNorm | Activation
LAYER_NORM_EPSILON = 1e-5


def policy_layers(description: PolicyDescription, tensors: Mapping[str, np.ndarray]) -> list[Layer]:
    """The layers from one raw observation, flattened, to the head's outputs.

    The outputs are logits, or the mean, followed by what is said of log σ where that depends on the state. Pixels are
    not divided by 255: the weights of the first convolution, or of the first product, are.
    """
    network, layers, tensors = description.network, [], divided_pixels(description, tensors)
    if description.observation.clip is not None:
        layers.append(Clip(description.observation.clip))
    if description.normalizer is not None:
        var = tensors["normalizer/var"].reshape(-1).astype(np.float64)
        scale = (1.0 / np.sqrt(var + description.normalizer.epsilon)).astype(np.float32)
        layers.append(Normalize(tensors["normalizer/mean"].reshape(-1), scale, description.normalizer.clip))
    if network.features == "cnn":
        layers += _cnn_layers(description, tensors)
    for i in range(len(network.hidden)):
        layers.append(_dense(tensors, f"torso/{i}"))
        if network.layer_norm:
            layers.append(LayerNorm(tensors[f"torso/{i}/norm/scale"], tensors[f"torso/{i}/norm/offset"]))
        layers.append(Activation(network.activation))
    layers.append(_dense(tensors, "head"))
    return layers


def input_sizes(layers: Sequence[Layer], size: int) -> list[int]:
    """How many numbers each layer is given, where the first is given `size`."""
    sizes = []
    for layer in layers:
        sizes.append(size)
        if isinstance(layer, Dense):
            size = layer.bias.size
        elif isinstance(layer, Convolution):
            size = math.prod(layer.out_shape)
    return sizes


def output_size(description: PolicyDescription) -> int:
    """Numbers that describe the distribution: n logits, or A means and A log σ."""
    action = description.action
    return action.n if action.kind == "discrete" else 2 * math.prod(action.shape)


def _cnn_layers(description: PolicyDescription, tensors: Mapping[str, np.ndarray]) -> list[Layer]:
    height, width, _ = description.observation.shape
    layers: list[Layer] = []
    for i, (_, _, stride) in enumerate(CNN_LAYERS):
        weight, bias = tensors[f"torso/cnn/conv{i}/weight"], tensors[f"torso/cnn/conv{i}/bias"]
        layer = Convolution(weight, bias, stride, height, width)
        height, width, _ = layer.out_shape
        layers.append(layer)
    return [*layers, _dense(tensors, "torso/cnn/dense"), Activation("relu")]


def _dense(tensors: Mapping[str, np.ndarray], name: str) -> Dense:
    return Dense(tensors[f"{name}/weight"], tensors[f"{name}/bias"])
