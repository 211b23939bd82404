"""From Gymnasium's spaces to ours, and what to do about the ones that have no counterpart."""

import numpy as np

from policy_gradients.environments.base import Box, Discrete, Space, box
from policy_gradients.environments.gymnasium.chunk import SpaceInfo
from policy_gradients.errors import UserError

_FLATTENED = ("Dict", "Tuple", "Discrete", "MultiDiscrete", "MultiBinary")  # what FlattenObservation makes a Box of


def obs_space(env_id: str, space: SpaceInfo) -> Box:
    """Our Box of an observation space: uint8 for images, float32 for everything else.

    Raises:
        UserError: Not a Box of numbers, or of none.
    """
    if space.kind != "Box":
        wrapper = "FlattenObservation" if space.kind in _FLATTENED else "TransformObservation"
        raise UserError(
            f"{env_id} has observations in {space.text}, but only Box is supported; make them one vector with "
            f"gymnasium.wrappers.{wrapper} and pass a callable that returns the wrapped environment."
        )
    dtype = np.dtype(space.dtype)
    if dtype.kind not in "fiub":
        raise UserError(f"{env_id} has observations of dtype {dtype}, but only real numbers are supported.")
    if not space.shape or 0 in space.shape:
        raise UserError(
            f"{env_id} has observations of shape {space.shape}, expected at least one axis and one number; give the "
            f"space a shape like (1,)."
        )
    image = dtype == np.uint8 and len(space.shape) >= 2
    return box(*_bounds(space), space.shape, np.uint8 if image else np.float32)


def action_space(env_id: str, space: SpaceInfo) -> Space:
    """Our space of an action space: a float32 Box or a Discrete.

    Raises:
        UserError: Neither a Box of floats nor Discrete.
    """
    if space.kind == "Discrete":
        return Discrete(space.n, space.start)
    if space.kind == "Box" and np.dtype(space.dtype).kind == "f":
        return box(*_bounds(space), space.shape, np.float32)
    raise UserError(
        f"{env_id} takes actions from {space.text}, but only Box of floats and Discrete are supported; map one of them "
        f"to it with gymnasium.wrappers.TransformAction and pass a callable that returns the wrapped environment."
    )


def _bounds(space: SpaceInfo) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds as float32 or uint8 holds them: what is beyond float32 is no bound at all."""
    with np.errstate(over="ignore"):
        if np.dtype(space.dtype) == np.uint8:
            return np.asarray(space.low), np.asarray(space.high)
        return np.asarray(space.low).astype(np.float32), np.asarray(space.high).astype(np.float32)
