"""What the adapters to host simulators share: seeds, steps, and the watch for numbers that are not finite."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from policy_gradients.environments.base import EnvironmentFailure, Step


def derive_seeds(seed: int, num_envs: int, num_steps: int = 0) -> np.ndarray:
    """One seed per environment, from the run's seed alone: environment i has the same one for every `num_envs`.

    Args:
        seed: Any non-negative integer.
        num_envs: N.
        num_steps: Steps taken since `seed` was given: other seeds for environments that start anew after a restore.

    Returns:
        Integers in [0, 2³¹), which every simulator takes; int64 [N].
    """
    draw = lambda i: np.random.SeedSequence((seed, num_steps, i)).generate_state(1, np.uint32)[0] >> 1  # noqa: E731
    return np.array([draw(i) for i in range(num_envs)], np.int64)


def check_finite(env_id: str, call: str, arrays: Mapping[str, np.ndarray], seeds: np.ndarray) -> None:
    """Refuses NaN and infinity before they reach the learner, where nobody could tell which environment sent them.

    Args:
        env_id: For the message.
        call: "reset" or "step", for the message.
        arrays: By name, each [N, ...]; integers and bools are passed over.
        seeds: Seed of each environment [N].

    Raises:
        EnvironmentFailure: Something is not finite; the message names the first such environment.
    """
    for name, array in arrays.items():
        if array.dtype.kind != "f" or np.isfinite(array).all():
            continue
        row, *coordinate = np.argwhere(~np.isfinite(array))[0].tolist()
        place = f" (coordinate {', '.join(map(str, coordinate))})" if coordinate else ""
        raise EnvironmentFailure(
            f"{env_id}: {call} of environment {row} of {len(array)} (seed {seeds[row]}) returned the {name} "
            f"{array[(row, *coordinate)]}{place}. Observations and rewards must be finite: look for a division by zero "
            f"or an unstable simulation."
        )


def host_step(*fields: np.ndarray) -> Any:
    """A `Step` of NumPy arrays, as the bridge takes it; the type's own fields are JAX's."""
    return Step(*fields)  # type: ignore[arg-type]


def dummy_step(obs: np.ndarray) -> Any:
    """A `Step` in which nothing happened: its rows are not valid and only bring the observations to act on next."""
    nothing = np.zeros(len(obs), bool)
    return host_step(obs, obs, np.zeros(len(obs), np.float32), nothing, nothing, nothing)
