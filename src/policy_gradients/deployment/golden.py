"""Golden vectors: observations with the answers a policy must give, so that any runtime can check itself.

They travel in the bundle as `golden.safetensors`: `obs`, the deterministic `action` in the simulator's bounds, and
`mean` and `log_std`, or `logits`, before it. All were computed by the NumPy runtime when the bundle was written.
"""

from collections.abc import Mapping

import numpy as np

from policy_gradients.deployment.description import PolicyDescription
from policy_gradients.deployment.numpy_network import (
    control_map,
    distribution_parameters,
    input_shape,
    policy_network,
)

GOLDEN_ROWS = 64


def golden_vectors(description: PolicyDescription, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Observations [64, *obs] and their answers [64, ...]."""
    obs = golden_observations(description, tensors)
    return {"obs": obs, **golden_answers(description, tensors, obs)}


def golden_answers(
    description: PolicyDescription, tensors: Mapping[str, np.ndarray], obs: np.ndarray
) -> dict[str, np.ndarray]:
    """What the policy answers to a batch of observations: `action`, and `mean` and `log_std` or `logits`."""
    out = policy_network(description, tensors)(obs.reshape(len(obs), *input_shape(description)))
    parameters = distribution_parameters(description, tensors)(out)
    drawn = np.argmax(out, axis=-1) if "logits" in parameters else parameters["mean"]
    answers = {"action": control_map(description)(drawn), **parameters}
    return {name: np.ascontiguousarray(array) for name, array in answers.items()}


def golden_error(
    description: PolicyDescription, tensors: Mapping[str, np.ndarray], golden: Mapping[str, np.ndarray]
) -> float:
    """Largest absolute difference between the stored answers and those computed here; NaN counts as infinite."""
    answers = golden_answers(description, tensors, golden["obs"])
    errors = [np.abs(answers[name] - golden[name]).max() for name in answers]
    return float(np.nan_to_num(max(errors), nan=np.inf))


def golden_observations(description: PolicyDescription, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """[64, *obs]: the middle, extremes that a normaliser clips, one-sided and mixed signs, then random rows.

    Rows spread around the normaliser's mean by 1, 3 and 30 of its standard deviations (without one, around 0 by 1, 3
    and 30); of pixels, black, white, stripes and noise.
    """
    shape = (GOLDEN_ROWS, *description.observation.shape)
    rng = np.random.default_rng(0)
    if description.observation.dtype == "uint8":
        obs = rng.integers(0, 256, shape, np.uint8)
        obs[0], obs[1] = 0, 255
        obs[2] = (np.arange(obs[2].size) % 2 * 255).reshape(obs[2].shape)
        return obs
    scale = np.repeat(np.array([1, 3, 30, 1], np.float32), GOLDEN_ROWS // 4)
    obs = rng.standard_normal(shape, np.float32) * scale.reshape(-1, *(1,) * (len(shape) - 1))
    sign = np.where(np.arange(obs[0].size) % 2, -1, 1).reshape(obs[0].shape)
    for row, extreme in enumerate((0, 1, -1, 1e3, -1e3, 1e3 * sign, -1e3 * sign)):
        obs[row] = extreme
    if description.normalizer is None:
        return obs
    std = np.sqrt(tensors["normalizer/var"] + np.float32(description.normalizer.epsilon))
    return tensors["normalizer/mean"] + obs * std
