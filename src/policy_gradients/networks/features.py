"""Feature extractors: a perceptron for vectors, the Nature CNN for pixels. Each is a pair `(init, apply)`.

Parameters are nested dicts of arrays, so a checkpoint's tensor names read like paths (`policy/torso/0/weight`) and the
exported policy needs no library to find them.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from policy_gradients import backend

Array: TypeAlias = jax.Array
ActivationName: TypeAlias = Literal["tanh", "relu", "elu", "gelu", "silu", "swish", "leaky_relu", "softplus"]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,  # the tanh approximation
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "leaky_relu": jax.nn.leaky_relu,  # slope 0.01
    "softplus": jax.nn.softplus,
}


class Network(NamedTuple):
    """A function of parameters and a batch of inputs: `apply(params, x [*batch, in]) -> [*batch, out]`."""

    init: Callable[[Array], Any]
    apply: Callable[[Any, Array], Array]
    out_size: int


def dense_init(key: Array, in_size: int, out_size: int, gain: float) -> dict[str, Array]:
    """Orthogonal weights [in, out] times `gain`, zero bias (Saxe et al., arXiv 1312.6120)."""
    weight = jax.nn.initializers.orthogonal(gain)(key, (in_size, out_size), jnp.float32)
    return {"weight": weight, "bias": jnp.zeros(out_size, jnp.float32)}


def dense(params: dict[str, Array], x: Array) -> Array:
    """x W + b over the last axis."""
    return x @ params["weight"] + _over_batch(params["bias"], x)


def layer_norm(params: dict[str, Array], x: Array) -> Array:
    """Layer normalisation over the last axis, ε 1e-5 (arXiv 1607.06450)."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    var = jnp.mean(centred * centred, axis=-1, keepdims=True)
    scaled = centred * jax.lax.rsqrt(var + 1e-5)
    return scaled * _over_batch(params["scale"], x) + _over_batch(params["offset"], x)


def mlp(in_size: int, hidden: Sequence[int], activation: str, normalize_layers: bool = False) -> Network:
    """Dense layers, each followed by layer normalisation (optional) and the activation; orthogonal gain √2."""
    act = ACTIVATIONS[activation]
    sizes = [in_size, *hidden]

    def init(key: Array) -> dict[str, Any]:
        keys = jax.random.split(key, max(1, len(hidden)))
        params: dict[str, Any] = {}
        for i, size in enumerate(hidden):
            params[str(i)] = dense_init(keys[i], sizes[i], size, math.sqrt(2.0))
            if normalize_layers:
                params[str(i)]["norm"] = {"scale": jnp.ones(size, jnp.float32), "offset": jnp.zeros(size, jnp.float32)}
        return params

    def apply(params: dict[str, Any], x: Array) -> Array:
        for i in range(len(hidden)):
            x = dense(params[str(i)], x)
            if normalize_layers:
                x = layer_norm(params[str(i)]["norm"], x)
            x = act(x)
        return x

    return Network(init, apply, sizes[-1])


NATURE_LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""Filters, kernel and stride of the convolutions of Mnih et al., Nature 2015."""

NATURE_LEAST_SIDE = 36
"""Least height and width of its images: one output of the last convolution sees 3 × 3 of the second, thus 8 × 8 of the
first, thus 36 × 36 pixels."""


def nature_cnn(shape: tuple[int, ...], features: int = 512) -> Network:
    """The Nature CNN on uint8 pixels [*batch, H, W, C], divided by 255; ReLU, orthogonal gain √2, no padding.

    H and W are at least `NATURE_LEAST_SIDE`.
    """
    height, width, channels = shape
    for _, kernel, stride in NATURE_LAYERS:
        height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
    flat = height * width * NATURE_LAYERS[-1][0]

    def init(key: Array) -> dict[str, Any]:
        keys = jax.random.split(key, 4)
        params: dict[str, Any] = {}
        depth = channels
        for i, (filters, kernel, _) in enumerate(NATURE_LAYERS):
            weight = dense_init(keys[i], kernel * kernel * depth, filters, math.sqrt(2.0))
            params[f"conv{i}"] = {**weight, "weight": weight["weight"].reshape(kernel, kernel, depth, filters)}
            depth = filters
        return {**params, "dense": dense_init(keys[3], flat, features, math.sqrt(2.0))}

    def apply(params: dict[str, Any], x: Array) -> Array:
        apply_filters = convolve if backend.platform() == "cpu" else _convolve
        batch = x.shape[:-3]
        x = x.reshape(-1, *shape).astype(jnp.float32) / 255.0
        for i, (_, _, stride) in enumerate(NATURE_LAYERS):
            layer = params[f"conv{i}"]
            x = apply_filters(x, layer["weight"], stride)
            x = jax.nn.relu(x + _over_batch(layer["bias"], x))
        return jax.nn.relu(dense(params["dense"], x.reshape(*batch, flat)))

    return Network(init, apply, features)


def _convolve(x: Array, weight: Array, stride: int) -> Array:
    return jax.lax.conv_general_dilated(
        x, weight, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def convolve(x: Array, weight: Array, stride: int) -> Array:
    """The convolution, with derivatives that are matrix products.

    Inside a loop, as minibatches are, XLA's own gradient of a convolution takes ten times as long on a CPU.

    Args:
        x: [B, H, W, C].
        weight: [K, K, C, F].
        stride: In both directions; no padding.
    """
    return _convolve(x, weight, stride)


@partial(convolve.defjvp, symbolic_zeros=True)
def _convolve_jvp(stride: int, primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    x, weight = primals
    pairs = ((tangents[0], weight), (x, tangents[1]))
    known = [_convolve_by_patches(*pair, stride) for pair in pairs if not any(map(_is_zero, pair))]
    out = convolve(x, weight, stride)
    return out, sum(known[1:], start=known[0]) if known else jnp.zeros_like(out)


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def _convolve_by_patches(x: Array, weight: Array, stride: int) -> Array:
    """The same as one product: every patch is a row."""
    kernel, _, depth, filters = weight.shape
    rows, columns = ((size - kernel) // stride + 1 for size in x.shape[1:3])
    patches = [
        x[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
        for i in range(kernel)
        for j in range(kernel)
    ]
    flat = jnp.concatenate(patches, axis=-1).reshape(-1, kernel * kernel * depth)
    return (flat @ weight.reshape(-1, filters)).reshape(x.shape[0], rows, columns, filters)


def _over_batch(vector: Array, x: Array) -> Array:
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)
