"""The deterministic action for one observation in NumPy, for control loops.

One call of NumPy costs a tenth of a 256 × 256 product, so what matters is how many there are: biases and the
normaliser's scale are part of the weights, the head stretches to the action's bounds, and nothing is allocated.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from policy_gradients.deployment.description import PolicyDescription
from policy_gradients.deployment.memory import aligned
from policy_gradients.deployment.numpy_network import (
    Layer,
    after_product,
    control_constants,
    control_map,
    divided_pixels,
    input_shape,
    stretched_head,
)
from policy_gradients.deployment.observations import check_output

Entry: TypeAlias = Callable[[np.ndarray, np.ndarray], None]
"""Writes what the first product takes (second argument) for an observation (first argument)."""


def single_policy(description: PolicyDescription, tensors: Mapping[str, np.ndarray]) -> Layer | None:
    """The function from one checked observation [*obs] to the most likely action; None where the network is a CNN.

    Threads may share it. It raises RefusedObservation where the network's output is not finite.
    """
    if description.network.features == "cnn":
        return None
    depth = len(description.network.hidden)
    tensors, finish = _finish(description, divided_pixels(description, tensors))
    enter, scale = _entry(description, tensors)
    weights = [_with_bias(tensors, name) for name in (*(f"torso/{i}" for i in range(depth)), "head")]
    weights[0][:-1] *= scale[:, None]
    memory = _Memory(weights, [after_product(description, tensors, i) for i in range(depth)])

    def act(x: np.ndarray) -> np.ndarray:
        first, steps, last, head, out = memory.places
        enter(x, first)
        for row, weight, place, functions in steps:
            row.dot(weight, place)
            for function in functions:
                y = function(place)
                if y is not place:
                    place[...] = y
        last.dot(head, out)
        check_output(out)
        return finish(out)

    return act


class _Step(NamedTuple):
    """One hidden layer: `place` gets row · weight, and then what the functions make of it."""

    row: np.ndarray
    weight: np.ndarray
    place: np.ndarray
    functions: Sequence[Layer]


class _Memory(threading.local):
    """One thread's arrays: every product's row, which ends with a 1 for the bias, and the outputs."""

    def __init__(self, weights: Sequence[np.ndarray], functions: Sequence[Sequence[Layer]]) -> None:
        rows = [aligned((len(weight),), np.float32) for weight in weights]
        for row in rows:
            row[-1] = 1
        places = [row[:-1] for row in rows]
        steps = [_Step(*step) for step in zip(rows[:-1], weights[:-1], places[1:], functions, strict=True)]
        out = aligned((weights[-1].shape[1],), np.float32)
        self.places = places[0], steps, rows[-1], weights[-1], out  # one look-up by thread instead of five


def _with_bias(tensors: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    weight = tensors[f"{name}/weight"]
    found = aligned((len(weight) + 1, weight.shape[1]), np.float32)
    found[:-1], found[-1] = weight, tensors[f"{name}/bias"]
    return found


def _entry(description: PolicyDescription, tensors: Mapping[str, np.ndarray]) -> tuple[Entry, np.ndarray]:
    """What precedes the first product except the normaliser's scale; and that scale, for the weights."""
    size, bound, normalizer = input_shape(description), description.observation.clip, description.normalizer

    def flat(x: np.ndarray) -> np.ndarray:
        if x.shape != size:
            x = x.reshape(size)
        return x if bound is None else x.clip(-np.float32(bound), np.float32(bound))

    if normalizer is None:
        return lambda x, place: np.copyto(place, flat(x)), np.ones(size, np.float32)
    mean, var = (tensors[f"normalizer/{name}"].reshape(size) for name in ("mean", "var"))
    deviation = np.sqrt(var.astype(np.float64) + normalizer.epsilon)
    high = (normalizer.clip * deviation).astype(np.float32)
    low = -high

    def centre(x: np.ndarray, place: np.ndarray) -> None:
        np.subtract(flat(x), mean, out=place)
        np.minimum(place, high, out=place)  # with the next line, quicker than `clip`
        np.maximum(place, low, out=place)

    return centre, (1 / deviation).astype(np.float32)


def _finish(
    description: PolicyDescription, tensors: Mapping[str, np.ndarray]
) -> tuple[Mapping[str, np.ndarray], Layer]:
    """The tensors whose head puts out no more than the action needs; and the function from that to the action."""
    action = description.action
    if action.kind == "discrete":
        return tensors, lambda logits: logits.argmax(axis=-1) + action.start
    if action.map == "clip":
        low, high, _, _ = control_constants(action)
        return stretched_head(action, tensors), lambda x: np.maximum(np.minimum(x, high), low)
    size = action.shape[0]
    head = {"head/weight": tensors["head/weight"][:, :size], "head/bias": tensors["head/bias"][:size]}
    return {**tensors, **head}, control_map(description)
