"""A trained policy that acts with NumPy alone: observation in, action in the simulator's own units out."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from policy_gradients.deployment.bundle import read_bundle
from policy_gradients.deployment.description import ActionDescription, PolicyDescription, shown
from policy_gradients.deployment.numpy_network import (
    bound_array,
    control_map,
    distribution_parameters,
    input_shape,
    policy_network,
)
from policy_gradients.deployment.numpy_single import single_policy
from policy_gradients.deployment.observations import ObservationCheck, check_output
from policy_gradients.errors import UserError


def load_policy(path: str | Path, *, seed: int | None = None) -> "NumpyPolicy":
    """The policy in a bundle, ready to act.

    Args:
        path: The bundle's folder, or a run's folder that holds one.
        seed: Seed of the policy's own noise, for actions that are sampled; None draws one from the system.

    Raises:
        UserError: There is no bundle, something is wrong with it, or the seed is none.
    """
    bundle = read_bundle(path)
    return NumpyPolicy(bundle.description, bundle.tensors, seed=seed)


def noise_source(seed: int | None) -> np.random.Generator:
    """The generator of a policy's own noise.

    Raises:
        UserError: NumPy does not take this seed.
    """
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError):
        raise UserError(f"seed should be an integer from 0 on, or None, not {shown(seed)}.") from None


def chosen_source(rng: np.random.Generator | None, own: np.random.Generator) -> np.random.Generator:
    """The generator that a caller passed, or the policy's own.

    Raises:
        UserError: Something else was passed.
    """
    if rng is None:
        return own
    if not isinstance(rng, np.random.Generator):
        raise UserError(f"rng should be a generator such as numpy.random.default_rng(3), or None, not {shown(rng)}.")
    return rng


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
        self._check = ObservationCheck(description.observation)
        has_moments = description.normalizer is not None
        self._moments = (tensors["normalizer/mean"], tensors["normalizer/var"]) if has_moments else None
        self._input_shape = input_shape(description)
        self._network = policy_network(description, tensors)
        self._single = single_policy(description, tensors)
        self._parameters = distribution_parameters(description, tensors)
        self._control = control_map(description)
        self._action_size = math.prod(description.action.shape)
        self._rng = noise_source(seed)

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
            RefusedObservation: The observation has another shape or type, holds a NaN or an infinity, or overflows.
            UserError: `rng` is not a generator.
        """
        x = self._check(obs)
        if deterministic and self._single is not None and x.shape == self._shape:
            return self._single(x)
        out = self._outputs(x)
        if not deterministic:
            return self._draw(out, chosen_source(rng, self._rng))
        if self.description.action.kind == "discrete":
            return self._control(np.argmax(out, axis=-1))
        return self._control(out[..., : self._action_size])

    def _draw(self, out: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """An action drawn from the distribution that the network's outputs say."""
        if self.description.action.kind == "discrete":
            return self._control(np.argmax(out + rng.gumbel(size=out.shape), axis=-1))  # a draw from softmax(out)
        parameters = self._parameters(out)
        noise = rng.standard_normal(parameters["mean"].shape, np.float32)
        return self._control(parameters["mean"] + np.exp(parameters["log_std"]) * noise)

    def distribution(self, obs: ArrayLike) -> dict[str, np.ndarray]:
        """The distribution's parameters, before the action map: `mean` and `log_std`, or `logits`.

        Raises:
            RefusedObservation: As for acting.
        """
        return self._parameters(self._outputs(self._check(obs)))

    def diagnose(self, obs: ArrayLike) -> dict[str, np.ndarray]:
        """The deterministic action and what explains it; slower than acting.

        Returns:
            `action`; `mean` and `log_std`, or `logits`; `clipped`, the share [*batch] of the observation's coordinates
            that the normaliser clips, which tells an observation unlike those of training; `saturated`, the share
            [*batch] of the action's coordinates at a bound; `entropy` [*batch], nats, before the action map.

        Raises:
            RefusedObservation: As for acting.
        """
        parameters, action = self.distribution(obs), self(obs)
        x = self._check(obs)
        return {
            "action": action,
            **parameters,
            "clipped": _clipped_share(self.description, self._moments, x),
            "saturated": _saturated_share(self.description.action, action),
            "entropy": _entropy(parameters),
        }

    def _outputs(self, x: np.ndarray) -> np.ndarray:
        lead = x.shape[: x.ndim - len(self._shape)]
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is clipped, or refused below
            out = self._network(x.reshape(*((-1,) if lead else ()), *self._input_shape))
        out = out.reshape(*lead, out.shape[-1])
        check_output(out)
        return out


def _clipped_share(
    description: PolicyDescription, moments: tuple[np.ndarray, np.ndarray] | None, x: np.ndarray
) -> np.ndarray:
    axes = tuple(range(x.ndim - len(description.observation.shape), x.ndim))
    if moments is None or description.normalizer is None:
        return np.zeros(x.shape[: axes[0] if axes else x.ndim])
    mean, var = moments
    beyond = np.abs(x - mean) >= description.normalizer.clip * np.sqrt(var + description.normalizer.epsilon)
    return beyond.mean(axis=axes)


def _saturated_share(action: ActionDescription, taken: np.ndarray) -> np.ndarray:
    if action.kind == "discrete":
        return np.zeros(taken.shape)
    low, high = bound_array(action.low, action.shape, -np.inf), bound_array(action.high, action.shape, np.inf)
    return ((taken <= low) | (taken >= high)).mean(axis=-1)


def _entropy(parameters: Mapping[str, np.ndarray]) -> np.ndarray:
    """Of the categorical distribution, or of the Gaussian before any squashing; nats."""
    if "logits" not in parameters:
        return (parameters["log_std"] + 0.5 * math.log(2 * math.pi * math.e)).sum(axis=-1)
    logits = parameters["logits"] - parameters["logits"].max(axis=-1, keepdims=True)
    weights = np.exp(logits)
    total = weights.sum(axis=-1)
    return np.log(total) - (weights * logits).sum(axis=-1) / total
