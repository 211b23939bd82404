"""What the generated C answers, computed without a C compiler (`arithmetic`)."""

import math
from typing import NamedTuple

import numpy as np

from policy_gradients.deployment.bundle import Bundle
from policy_gradients.deployment.c99.arithmetic import apply_layers, clamp, tanh
from policy_gradients.deployment.description import ActionDescription
from policy_gradients.deployment.layers import policy_layers
from policy_gradients.deployment.numpy_network import control_constants

TOLERANCE = 1e-5
"""How far runtimes may differ, as a share of the largest number in the answer or absolutely, where that is below 1."""


class Answers(NamedTuple):
    """The answers to B observations.

    Attributes:
        distribution: float32 [B, K], logits, or means followed by log σ.
        action: float32 [B, A], or int32 [B, 1].
        tolerance: float32 [B], what another runtime's answer may be away.
    """

    distribution: np.ndarray
    action: np.ndarray
    tolerance: np.ndarray


def reference_answers(bundle: Bundle, obs: np.ndarray) -> Answers:
    """Every bit of the C's answers to observations [B, N], flattened."""
    description, network = bundle.description, bundle.description.network
    out = apply_layers(policy_layers(description, bundle.tensors), obs)
    if network.distribution == "categorical":
        action = np.argmax(out, axis=-1)[:, None].astype(np.int32) + np.int32(description.action.start)
        return Answers(out, action, tolerance_of(out))
    size = math.prod(description.action.shape)
    low, high = map(np.float32, network.log_std_range)
    if network.state_dependent_std:
        log_std = clamp(out[:, size:] + np.float32(network.log_std_init), low, high)
    else:
        log_std = np.broadcast_to(bundle.tensors["log_std"].clip(low, high), (len(out), size))
    action = _control(description.action, out[:, :size])
    return Answers(np.concatenate([out[:, :size], log_std], axis=1), action, tolerance_of(out, action))


def tolerance_of(*answers: np.ndarray) -> np.ndarray:
    """`TOLERANCE` for each row [B] of answers [B, ...]."""
    sizes = [np.abs(answer).reshape(len(answer), -1).max(axis=1) for answer in answers]
    return (TOLERANCE * np.maximum(1, np.max(sizes, axis=0))).astype(np.float32)


def _control(action: ActionDescription, u: np.ndarray) -> np.ndarray:
    low, high, half, centre = control_constants(action)
    if action.map == "none":
        return clamp(u, low, high)
    return clamp((tanh(u) if action.map == "tanh" else u) * half + centre, low, high)
