"""Layers against NumPy: initialisation, activations, layer normalisation and the Nature CNN."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from policy_gradients.networks import features
from policy_gradients.networks.features import (
    ACTIVATIONS,
    NATURE_LAYERS,
    dense,
    dense_init,
    layer_norm,
    mlp,
    nature_cnn,
)

KEY = jax.random.key(0)

# Written out from their definitions, float64.
REFERENCE = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "gelu": lambda x: x * special.ndtr(x),
    "silu": lambda x: x * special.expit(x),
    "swish": lambda x: x * special.expit(x),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "softplus": lambda x: np.logaddexp(x, 0),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_what_its_name_says(name):
    x = np.linspace(-5, 5, 41)
    tolerance = 1e-3 if name == "gelu" else 1e-5  # gelu is the tanh approximation
    np.testing.assert_allclose(ACTIVATIONS[name](jnp.asarray(x, jnp.float32)), REFERENCE[name](x), atol=tolerance)


@pytest.mark.parametrize(("in_size", "out_size"), [(5, 5), (17, 6), (6, 17)])
@pytest.mark.parametrize("gain", [math.sqrt(2), 0.01])
def test_initial_weights_are_orthogonal_with_their_gain_and_biases_zero(in_size, out_size, gain):
    params = dense_init(KEY, in_size, out_size, gain)
    assert params["weight"].shape == (in_size, out_size)
    singular_values = np.linalg.svd(params["weight"], compute_uv=False)
    np.testing.assert_allclose(singular_values, gain, rtol=1e-5)
    np.testing.assert_array_equal(params["bias"], np.zeros(out_size))


def test_a_dense_layer_is_x_w_plus_b():
    params = {"weight": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "bias": jnp.array([10.0, 20.0])}
    np.testing.assert_array_equal(dense(params, jnp.array([[1.0, 1.0], [0.0, 1.0]])), [[14, 26], [13, 24]])


def test_layer_normalisation_gives_mean_zero_and_deviation_one_before_scale_and_offset():
    x = jnp.asarray(np.random.default_rng(0).normal(5, 3, (4, 50)), jnp.float32)
    params = {"scale": jnp.full(50, 2.0), "offset": jnp.full(50, -1.0)}
    out = np.asarray(layer_norm(params, x))
    np.testing.assert_allclose(out.mean(-1), -1, atol=1e-5)
    np.testing.assert_allclose(out.std(-1), 2, rtol=1e-4)
    assert np.isfinite(layer_norm(params, jnp.full((1, 50), 3.0))).all()


@pytest.mark.parametrize("batch", [(), (7,), (2, 3)])
def test_a_perceptron_keeps_the_batch_axes(batch):
    network = mlp(5, (8, 4), "tanh")
    assert network.out_size == 4
    assert network.apply(network.init(KEY), jnp.zeros((*batch, 5))).shape == (*batch, 4)


def test_a_perceptron_is_its_layers_and_activations_in_order():
    network = mlp(3, (4, 2), "relu")
    params = network.init(KEY)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    x = np.random.default_rng(0).normal(size=(6, 3))
    expected = x
    for i in ("0", "1"):
        expected = np.maximum(expected @ np.asarray(params[i]["weight"]) + np.asarray(params[i]["bias"]), 0)
    np.testing.assert_allclose(network.apply(params, jnp.asarray(x, jnp.float32)), expected, rtol=1e-5, atol=1e-6)


def test_normalised_layers_do_not_see_the_scale_of_their_input():
    network = mlp(5, (8,), "tanh", normalize_layers=True)
    params = network.init(KEY)
    x = jax.random.normal(KEY, (3, 5))
    np.testing.assert_allclose(network.apply(params, 100 * x), network.apply(params, 1000 * x), atol=1e-4)
    plain = mlp(5, (8,), "tanh")
    assert not np.allclose(plain.apply(plain.init(KEY), 0.1 * x), plain.apply(plain.init(KEY), x), atol=1e-2)


def test_no_hidden_layers_pass_the_input_through():
    network = mlp(5, (), "tanh")
    x = jnp.ones((2, 5))
    assert network.out_size == 5
    assert network.apply(network.init(KEY), x) is x


def slow_nature_cnn(params, pixels):
    """Windows and sums over one image [H, W, C], float64."""
    x = pixels.astype(np.float64) / 255
    for i, (_, kernel, stride) in enumerate(NATURE_LAYERS):
        layer = {name: np.asarray(array, np.float64) for name, array in params[f"conv{i}"].items()}
        windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(0, 1))[::stride, ::stride]
        x = np.maximum(np.einsum("ijchw,hwcf->ijf", windows, layer["weight"]) + layer["bias"], 0)
    flat = x.reshape(-1) @ np.asarray(params["dense"]["weight"]) + np.asarray(params["dense"]["bias"])
    return np.maximum(flat, 0)


def test_the_cnn_is_the_nature_network_on_pixels():
    network = nature_cnn((52, 44, 2), features=16)
    params = jax.tree.map(lambda leaf: leaf + 0.01, network.init(KEY))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 52, 44, 2), np.uint8)
    out = jax.jit(network.apply)(params, jnp.asarray(pixels))
    assert out.shape == (2, 3, 16)
    np.testing.assert_allclose(out[1, 2], slow_nature_cnn(params, pixels[1, 2]), rtol=1e-4, atol=1e-4)


def test_the_cnn_on_atari_frames_has_the_published_shapes():
    network = nature_cnn((84, 84, 4))
    shapes = jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(network.init, KEY))
    assert [shapes[f"conv{i}"]["weight"] for i in range(3)] == [(8, 8, 4, 32), (4, 4, 32, 64), (3, 3, 64, 64)]
    assert shapes["dense"]["weight"] == (3136, 512)


def test_each_filter_of_the_cnn_starts_orthogonal_to_the_others():
    weight = np.asarray(nature_cnn((36, 36, 3), features=8).init(KEY)["conv0"]["weight"]).reshape(-1, 32)
    np.testing.assert_allclose(weight.T @ weight, 2 * np.eye(32), atol=1e-5)


def test_the_derivatives_of_a_convolution_are_those_of_xla():
    keys = jax.random.split(KEY, 4)
    x, weight = jax.random.normal(keys[0], (2, 13, 10, 3)), jax.random.normal(keys[1], (4, 4, 3, 5))
    tangents = jax.random.normal(keys[2], x.shape), jax.random.normal(keys[3], weight.shape)
    ours, theirs = (
        (jax.jit(partial(jax.jvp, f))((x, weight), tangents), jax.jit(partial(pulled, f))(x, weight))
        for f in (lambda x, weight: features.convolve(x, weight, 2), lambda x, weight: features._convolve(x, weight, 2))
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), ours, theirs)


def pulled(f, x, weight):
    return jax.grad(lambda *args: jnp.sum(jnp.sin(f(*args))), argnums=(0, 1))(x, weight)


def test_gradients_of_the_cnn_contain_no_convolutions_but_those_of_the_forward_pass():
    """A gradient's convolution takes ten times as long on a CPU inside a loop."""
    network = nature_cnn((36, 36, 2), features=8)
    pixels = jnp.ones((4, 36, 36, 2), jnp.uint8)
    gradient = jax.jit(jax.grad(lambda params: jnp.sum(network.apply(params, pixels))))
    text = gradient.lower(jax.eval_shape(network.init, KEY)).as_text()
    assert text.count("stablehlo.convolution") == 3
