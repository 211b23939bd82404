"""The generated C's arithmetic, operation by operation, in NumPy.

Every float32 operation here stands in the C source in the same order, and IEEE 754 fixes the result of each. So what
these functions compute is what the C computes, to the last bit, on every processor whose compiler contracts and
reorders nothing: the answers that `policy_selftest` compares with are made here, by no C compiler at all.

One transcendental function serves all of them, a rational tanh:

    elu       expm1(x) = 2t / (1 − t)                  t = tanh(x/2), x ≤ 0: no cancellation
    silu      x σ(x) = x (½ + ½ tanh(x/2))
    gelu      the tanh approximation, as in the networks
    softplus  max(x, 0) + log1p(e^−|x|), e^−|x| = (1 + t)/(1 − t), log1p(e) = 2 artanh(e/(2 + e)) by its series
    exp       ((1 + t)/(1 − t))^(2^k), t = tanh(x/2^(k+1)): only for a σ that depends on the state
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from policy_gradients.deployment.layers import (
    LAYER_NORM_EPSILON,
    Activation,
    Clip,
    Convolution,
    Dense,
    Layer,
    LayerNorm,
    Normalize,
)

TANH_BOUND = 9.0
"""From here on tanh is 1 in float32."""

TANH_P = (0.9999999794670762, 0.13381018692594424, 0.0034955798522793018, 2.060894686410262e-05, 1.3354478575157014e-08)
TANH_Q = (1.0, 0.4671433428918638, 0.025876950763694468, 0.0003285621293229193, 7.776482255468911e-07)
"""tanh x ≈ x P(x²)/Q(x²), lowest power first.

Minimax in the relative error over [0, 9] (2.1e-8 in exact arithmetic, by Lawson's iteration); in float32 3.3e-7.
"""

ARTANH_TERMS = tuple(1.0 / (2 * i + 1) for i in range(8))
"""artanh s / s in powers of s²; for s ≤ ⅓ what is left out is below 1e-9."""

LEAK = 0.01
"""Slope of leaky_relu below 0."""

GELU_SCALE, GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715


def tanh(x: np.ndarray) -> np.ndarray:
    """tanh, float32 in and out."""
    bound = np.float32(TANH_BOUND)
    z = clamp(x, -bound, bound)
    u = z * z
    ratio = z * horner(TANH_P, u) / horner(TANH_Q, u)
    return np.where(x >= bound, np.float32(1), np.where(x <= -bound, np.float32(-1), ratio))


def clamp(x: np.ndarray, low: np.ndarray | np.float32, high: np.ndarray | np.float32) -> np.ndarray:
    """x within [low, high]."""
    return np.where(x < low, low, np.where(x > high, high, x))


def horner(coefficients: Sequence[float], u: np.ndarray) -> np.ndarray:
    """The polynomial in u, from the highest power down."""
    total = np.full_like(u, np.float32(coefficients[-1]))
    for coefficient in coefficients[-2::-1]:
        total = total * u + np.float32(coefficient)
    return total


def exp(x: np.ndarray, halvings: int) -> np.ndarray:
    """e^x for |x| ≤ 2^halvings; the relative error is about 2^halvings · 3e-7."""
    t = tanh(x * np.float32(0.5 / 2**halvings))
    y = (np.float32(1) + t) / (np.float32(1) - t)
    for _ in range(halvings):
        y = y * y
    return y


def halvings_for(bound: float) -> int:
    """How often e^x has to be squared for |x| ≤ bound."""
    return max(0, math.ceil(math.log2(bound))) if bound > 0 else 0


def _relu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.where(x <= 0, np.float32(0), x))  # a NaN stays one


def _leaky_relu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, x * np.float32(LEAK))


def _elu(x: np.ndarray) -> np.ndarray:
    t = tanh(np.where(x > 0, np.float32(0), x) * np.float32(0.5))
    return np.where(x > 0, x, np.float32(2) * t / (np.float32(1) - t))


def _silu(x: np.ndarray) -> np.ndarray:
    return x * (np.float32(0.5) + np.float32(0.5) * tanh(x * np.float32(0.5)))


def _gelu(x: np.ndarray) -> np.ndarray:
    ten = np.float32(10)  # where tanh has long been ±1, and a cube cannot overflow
    z = clamp(x, -ten, ten)
    inner = np.float32(GELU_SCALE) * (z + np.float32(GELU_CUBIC) * (z * z * z))
    return x * (np.float32(0.5) + np.float32(0.5) * tanh(inner))


def _softplus(x: np.ndarray) -> np.ndarray:
    t = tanh(np.where(x > 0, -x, x) * np.float32(0.5))
    e = (np.float32(1) + t) / (np.float32(1) - t)
    s = e / (np.float32(2) + e)
    return np.where(x > 0, x, np.float32(0)) + np.float32(2) * s * horner(ARTANH_TERMS, s * s)


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": tanh,
    "relu": _relu,
    "elu": _elu,
    "gelu": _gelu,
    "silu": _silu,
    "swish": _silu,
    "leaky_relu": _leaky_relu,
    "softplus": _softplus,
}


def apply_layers(layers: Sequence[Layer], obs: np.ndarray) -> np.ndarray:
    """Outputs [B, K] for observations [B, N], flattened; an overflow is for the caller to find."""
    x = obs.astype(np.float32)
    with np.errstate(all="ignore"):
        for layer in layers:
            x = _apply(layer, x)
    return x


def _apply(layer: Layer, x: np.ndarray) -> np.ndarray:
    match layer:
        case Clip(bound):
            return clamp(x, -np.float32(bound), np.float32(bound))
        case Normalize(mean, scale, clip):
            return clamp((x - mean) * scale, -np.float32(clip), np.float32(clip))
        case Convolution():
            return _convolve(layer, x)
        case Dense(weight, bias):
            return _accumulate(np.broadcast_to(bias, (len(x), bias.size)), x, weight)
        case LayerNorm(scale, offset):
            return _layer_norm(x, scale, offset)
        case Activation(name):
            return ACTIVATIONS[name](x)


def _accumulate(start: np.ndarray, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """start + x W, one input after the other."""
    y = start.copy()
    for i in range(weight.shape[0]):
        y = y + x[:, i : i + 1] * weight[i]
    return y


def _convolve(layer: Convolution, x: np.ndarray) -> np.ndarray:
    kernel, _, depth, filters = layer.weight.shape
    images = x.reshape(len(x), layer.height, layer.width, depth)
    windows = np.lib.stride_tricks.sliding_window_view(images, (kernel, kernel), axis=(1, 2))
    windows = np.moveaxis(windows[:, :: layer.stride, :: layer.stride], 3, -1)
    rows = windows.reshape(-1, kernel * kernel * depth)
    start = np.broadcast_to(layer.bias, (len(rows), filters))
    return _relu(_accumulate(start, rows, layer.weight.reshape(-1, filters))).reshape(len(x), -1)


def _layer_norm(x: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    share = np.float32(1 / x.shape[1])
    centred = x - _sum(x)[:, None] * share
    var = _sum(centred * centred) * share
    deviation = np.sqrt(var + np.float32(LAYER_NORM_EPSILON))
    return centred / deviation[:, None] * scale + offset


def _sum(x: np.ndarray) -> np.ndarray:
    """Sums over the last axis, from its first to its last."""
    total = np.zeros(len(x), np.float32)
    for i in range(x.shape[1]):
        total = total + x[:, i]
    return total
