"""The acting half of `networks.actor_critic` in NumPy: observation to the policy head's outputs, and on to an action.

Every function takes one observation or a batch of them with the same code. Intermediate arrays are made anew on each
call, so threads share nothing. A single observation of an MLP has a faster way: `numpy_single`.
"""

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from policy_gradients.deployment.description import CNN_LAYERS, ActionDescription, Bounds, PolicyDescription

Layer: TypeAlias = Callable[[np.ndarray], np.ndarray]

_IMAGES_AT_ONCE = 32  # a batch of images is cut up: the unfolded first layer takes 15 times the memory of an image


def input_shape(description: PolicyDescription) -> tuple[int, ...]:
    """Shape of one observation as the network takes it: images for the CNN, else flattened."""
    shape = description.observation.shape
    return shape if description.network.features == "cnn" else (math.prod(shape),)


def policy_network(description: PolicyDescription, tensors: Mapping[str, np.ndarray]) -> Layer:
    """The function from raw observations [*batch, *input_shape] to outputs [*batch, K], float32.

    At most one batch axis. The outputs are logits, or means followed by what the state says of log σ.
    """
    network, tensors = description.network, divided_pixels(description, tensors)
    layers: list[Layer] = []
    if description.observation.clip is not None:
        layers.append(_clip(description.observation.clip))
    if description.normalizer is not None:
        mean, var = (tensors[f"normalizer/{name}"].reshape(input_shape(description)) for name in ("mean", "var"))
        layers.append(_normalizer(mean, var, description.normalizer.epsilon, description.normalizer.clip))
    if network.features == "cnn":
        layers.append(_cnn(tensors))
    for i in range(len(network.hidden)):
        layers += [_dense(tensors, f"torso/{i}"), *after_product(description, tensors, i)]
    layers.append(_dense(tensors, "head"))
    return _chain(layers)


def after_product(description: PolicyDescription, tensors: Mapping[str, np.ndarray], i: int) -> list[Layer]:
    """What follows the i-th hidden product; the functions may overwrite their argument."""
    norm = [_layer_norm(tensors, f"torso/{i}/norm")] if description.network.layer_norm else []
    return [*norm, ACTIVATIONS[description.network.activation]]


def control_map(description: PolicyDescription) -> Layer:
    """The function from a drawn u [*batch, A], or a drawn index [*batch], to the simulator's action."""
    action = description.action
    if action.kind == "discrete":
        return lambda index: index + action.start
    low, high, half, centre = control_constants(action)
    if action.map == "none":
        return lambda u: u.clip(low, high)
    squash = np.tanh if action.map == "tanh" else lambda u: u

    def apply(u: np.ndarray) -> np.ndarray:
        stretched = squash(u) * half
        stretched += centre
        # Clipped after stretching rather than before: the same map, and rounding cannot leave the bounds.
        return stretched.clip(low, high, out=stretched)

    return apply


def stretched_head(action: ActionDescription, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors with a linear action map's scale and shift in the head, and its mean alone."""
    _, _, half, centre = control_constants(action)
    weight, bias = tensors["head/weight"][:, : half.size], tensors["head/bias"][: half.size]
    return {**tensors, "head/weight": weight * half, "head/bias": bias * half + centre}


def divided_pixels(description: PolicyDescription, tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The tensors for raw observations: the networks divide pixels by 255; here the first weights are."""
    if description.observation.dtype != "uint8":
        return tensors
    network = description.network
    first = "torso/cnn/conv0" if network.features == "cnn" else "torso/0" if network.hidden else "head"
    return {**tensors, f"{first}/weight": tensors[f"{first}/weight"] / np.float32(255)}


def distribution_parameters(
    description: PolicyDescription, tensors: Mapping[str, np.ndarray]
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The function from outputs [*batch, K] to the distribution's parameters by name.

    `logits` [*batch, n] of a discrete action; `mean` and `log_std` [*batch, A] of a box, before the action map.
    """
    network, size = description.network, math.prod(description.action.shape)
    if network.distribution == "categorical":
        return lambda out: {"logits": out}
    low, high = network.log_std_range
    if network.state_dependent_std:
        shift = np.float32(network.log_std_init)
        return lambda out: {"mean": out[..., :size], "log_std": np.clip(out[..., size:] + shift, low, high)}
    log_std = np.clip(tensors["log_std"], low, high)
    return lambda out: {"mean": out, "log_std": np.broadcast_to(log_std, out.shape)}


def bound_array(bounds: Bounds, shape: tuple[int, ...], unbounded: float) -> np.ndarray:
    """Bounds as a float32 array of `shape`; where there is none, `unbounded`."""
    numbers = [unbounded if bound is None else bound for bound in bounds]
    return np.broadcast_to(np.array(numbers, np.float32), (math.prod(shape),)).reshape(shape).copy()


def control_constants(action: ActionDescription) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lowest and highest action, half the range and its middle; where there is no bound, the largest float32."""
    largest = float(np.finfo(np.float32).max)
    low, high = bound_array(action.low, action.shape, -largest), bound_array(action.high, action.shape, largest)
    return low, high, high / np.float32(2) - low / np.float32(2), high / np.float32(2) + low / np.float32(2)


def _chain(layers: list[Layer]) -> Layer:
    def apply(x: np.ndarray) -> np.ndarray:
        for layer in layers:
            x = layer(x)
        return x

    return apply


def _clip(bound: float) -> Layer:
    low, high = np.float32(-bound), np.float32(bound)
    return lambda x: x.clip(low, high)


def _normalizer(mean: np.ndarray, var: np.ndarray, epsilon: float, clip: float) -> Layer:
    # The mean is not folded into a shift after scaling: far from 0, float32 would lose the digits that matter.
    scale = (1.0 / np.sqrt(var.astype(np.float64) + epsilon)).astype(np.float32)
    low, high = np.full_like(scale, -clip), np.full_like(scale, clip)

    def apply(x: np.ndarray) -> np.ndarray:
        x = x - mean
        x *= scale
        return x.clip(low, high, out=x)

    return apply


def _dense(tensors: Mapping[str, np.ndarray], name: str) -> Layer:
    weight, bias = tensors[f"{name}/weight"], tensors[f"{name}/bias"]

    def apply(x: np.ndarray) -> np.ndarray:
        y = x.dot(weight)
        y += bias
        return y

    return apply


def _layer_norm(tensors: Mapping[str, np.ndarray], name: str) -> Layer:
    scale, offset = tensors[f"{name}/scale"], tensors[f"{name}/offset"]

    def apply(x: np.ndarray) -> np.ndarray:
        x = x - x.mean(axis=-1, keepdims=True)
        var = np.mean(x * x, axis=-1, keepdims=True)
        x *= 1 / np.sqrt(var + np.float32(1e-5))
        x *= scale
        x += offset
        return x

    return apply


def _cnn(tensors: Mapping[str, np.ndarray]) -> Layer:
    """Pixels [*batch, H, W, C] to features [*batch, 512]: convolutions as matrix products of unfolded windows."""
    matrices = [
        tensors[f"torso/cnn/conv{i}/weight"].reshape(-1, filters) for i, (filters, _, _) in enumerate(CNN_LAYERS)
    ]
    biases = [tensors[f"torso/cnn/conv{i}/bias"] for i in range(len(CNN_LAYERS))]
    dense = _dense(tensors, "torso/cnn/dense")

    def images(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float32)
        for (_, kernel, stride), matrix, bias in zip(CNN_LAYERS, matrices, biases, strict=True):
            windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(1, 2))
            windows = np.moveaxis(windows[:, ::stride, ::stride], 3, -1)  # [B, h, w, kernel, kernel, C]
            x = windows.reshape(*windows.shape[:3], len(matrix)) @ matrix
            x += bias
            np.maximum(x, 0, out=x)
        return _relu(dense(x.reshape(len(x), math.prod(x.shape[1:]))))

    def apply(x: np.ndarray) -> np.ndarray:
        if x.ndim == 3:
            return images(x[None])[0]
        chunks = [images(x[i : i + _IMAGES_AT_ONCE]) for i in range(0, max(1, len(x)), _IMAGES_AT_ONCE)]
        return np.concatenate(chunks)

    return apply


# Activations may overwrite their argument: it is always the fresh output of the layer before.
def _tanh(x: np.ndarray) -> np.ndarray:
    return np.tanh(x, out=x)


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0, out=x)


def _elu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _gelu(x: np.ndarray) -> np.ndarray:
    bounded = np.clip(x, -10, 10)  # the tanh is ±1 long before, and a cube cannot overflow
    inner = np.float32(math.sqrt(2 / math.pi)) * (bounded + np.float32(0.044715) * bounded**3)
    return x * (np.float32(0.5) * (1 + np.tanh(inner)))


def _silu(x: np.ndarray) -> np.ndarray:
    return x * (np.float32(0.5) * (1 + np.tanh(x * np.float32(0.5))))  # sigmoid by tanh: nothing overflows


def _leaky_relu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, x * np.float32(0.01))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, np.float32(0))


ACTIVATIONS: dict[str, Layer] = {
    "tanh": _tanh,
    "relu": _relu,
    "elu": _elu,
    "gelu": _gelu,
    "silu": _silu,
    "swish": _silu,
    "leaky_relu": _leaky_relu,
    "softplus": _softplus,
}
