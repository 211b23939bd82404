"""Test settings: every silent broadcast, dtype promotion, shape mismatch and warning is an error."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest
from jaxtyping import install_import_hook

install_import_hook(
    ["policy_gradients.distributions", "policy_gradients.estimation", "policy_gradients.optimization"],
    "beartype.beartype",
)

import jax  # noqa: E402, after the hook that checks our annotations
import optax  # noqa: E402

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_cpu_enable_async_dispatch", False)


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
