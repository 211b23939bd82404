"""Strict dtype promotion, but for one line of optax."""

import jax
import optax
import pytest


@pytest.fixture(scope="session", autouse=True)
def optax_under_strict_promotion():
    """optax raises a Python float to an int32 power in Adam; everything else stays under strict promotion."""
    correct = optax.tree.bias_correction

    def relaxed(*args, **kwargs):
        with jax.numpy_dtype_promotion("standard"):
            return correct(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optax.tree, "bias_correction", relaxed)
        yield
