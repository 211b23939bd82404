"""A trained policy that acts with NumPy alone: observation in, action in the simulator's own units out."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from policy_gradients.deployment.bundle import read_bundle
from policy_gradients.deployment.description import PolicyDescription
from policy_gradients.deployment.numpy_network import (
    control_map,
    distribution_parameters,
    input_shape,
    policy_network,
)
from policy_gradients.errors import UserError


def load_policy(path: str | Path, *, seed: int | None = None) -> "NumpyPolicy":
    """The policy in a bundle, ready to act.

    Args:
        path: The bundle's folder, or a run's folder that holds one.
        seed: Seed of the policy's own noise, for actions that are sampled; None draws one from the system.

    Raises:
        UserError: There is no bundle, or something is wrong with it.
    """
    bundle = read_bundle(path)
    return NumpyPolicy(bundle.description, bundle.tensors, seed=seed)


class NumpyPolicy:
    """A policy: `action = policy(obs)`.

    Calls share nothing that they write to, so threads may act with one policy at the same time.

    Attributes:
        description: What is known of the policy: spaces, names, network, action map, where it comes from.
    """

    def __init__(
        self, description: PolicyDescription, tensors: Mapping[str, np.ndarray], *, seed: int | None = None
    ) -> None:
        self.description = description
        self._shape = description.observation.shape
        self._dtype = np.dtype(description.observation.dtype)
        self._input_shape = input_shape(description)
        self._network = policy_network(description, tensors)
        self._parameters = distribution_parameters(description, tensors)
        self._control = control_map(description)
        self._action_size = math.prod(description.action.shape)
        self._rng = np.random.default_rng(seed)

    def __call__(
        self, obs: ArrayLike, *, deterministic: bool = True, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """The action for one observation [*obs], or the actions for a batch of them [*batch, *obs].

        Args:
            obs: As the simulator gives it; the policy normalises.
            deterministic: The most likely action (of a squashed policy the median) rather than a draw.
            rng: Source of the draw; None for the policy's own.

        Returns:
            float32 [*batch, A] within the simulator's bounds, or int64 [*batch] with the space's `start` added.

        Raises:
            UserError: The observation has another shape or type, or holds a NaN or an infinity.
        """
        out = self._outputs(obs)
        if self.description.action.kind == "discrete":
            if not deterministic:
                out = out + (rng or self._rng).gumbel(size=out.shape)  # the largest is a draw from softmax(out)
            return self._control(np.argmax(out, axis=-1))
        if deterministic:
            return self._control(out[..., : self._action_size])
        parameters = self._parameters(out)
        noise = (rng or self._rng).standard_normal(parameters["mean"].shape, np.float32)
        return self._control(parameters["mean"] + np.exp(parameters["log_std"]) * noise)

    def distribution(self, obs: ArrayLike) -> dict[str, np.ndarray]:
        """The distribution's parameters, before the action map: `mean` and `log_std`, or `logits`.

        Raises:
            UserError: As for acting.
        """
        return self._parameters(self._outputs(obs))

    def _outputs(self, obs: ArrayLike) -> np.ndarray:
        x = self._checked(np.asarray(obs))
        if x.ndim == len(self._shape):
            out = self._network(x.reshape(self._input_shape))
        else:
            lead = x.shape[: x.ndim - len(self._shape)]
            out = self._network(x.reshape(-1, *self._input_shape))
            out = out.reshape(*lead, out.shape[-1])
        if not _finite(out):
            raise UserError("The policy's output is not finite: the observation is too large for its network.")
        return out

    def _checked(self, x: np.ndarray) -> np.ndarray:
        """The observations with the network's dtype; anything else is refused rather than guessed at."""
        if x.shape[x.ndim - len(self._shape) :] != self._shape or x.ndim < len(self._shape):
            raise UserError(
                f"The policy expects observations of shape {self._shape}, alone or with batch axes before it, "
                f"not an array of shape {x.shape}."
            )
        if x.dtype != self._dtype:
            x = self._converted(x)
        if self._dtype == np.float32 and not _finite(x):
            raise UserError("The observation holds a NaN or an infinity; the policy does not act on it.")
        return x

    def _converted(self, x: np.ndarray) -> np.ndarray:
        kind: Any = x.dtype.kind
        if self._dtype == np.float32 and kind in "fiub":
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes an infinity, which is refused
                return x.astype(np.float32)
        if kind in "iu" and (x.size == 0 or (x.min() >= 0 and x.max() <= 255)):
            return x.astype(np.uint8)
        raise UserError(f"The policy expects observations of {self._dtype}, not of {x.dtype}.")


def _finite(x: np.ndarray) -> bool:
    """Whether no number is a NaN or an infinity."""
    return np.count_nonzero(np.isfinite(x)) == x.size  # a third of the time of np.isfinite(x).all()
