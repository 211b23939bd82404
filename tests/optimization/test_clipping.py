"""The gradient is clipped by its global norm over all parameters, never by element."""

import jax.numpy as jnp
import numpy as np
import optax


def clipped(gradient, bound):
    clip = optax.clip_by_global_norm(bound)
    return clip.update(gradient, clip.init(gradient))[0]


def test_three_and_four_clipped_to_one_are_six_and_eight_tenths():
    np.testing.assert_allclose(clipped(jnp.array([3.0, 4.0]), 1.0), [0.6, 0.8], rtol=1e-6)


def test_the_norm_is_of_all_leaves_together():
    gradient = clipped({"a": jnp.array([3.0]), "b": jnp.array([4.0])}, 1.0)
    np.testing.assert_allclose([gradient["a"][0], gradient["b"][0]], [0.6, 0.8], rtol=1e-6)


def test_a_gradient_within_the_bound_is_left_as_it_is():
    np.testing.assert_array_equal(clipped(jnp.array([0.3, 0.4]), 1.0), jnp.array([0.3, 0.4]))
