"""Learning rates: constant, linear in environment steps, or adapted to the KL divergence."""

from typing import Literal, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float

from policy_gradients.types import LearnerState

Schedule: TypeAlias = Literal["constant", "linear", "kl_adaptive", "kl_update"]

KL_ADAPTIVE_RANGE = (1e-6, 1e-2)
"""Bounds of a KL-adaptive learning rate (rl_games' own)."""


def linear(initial: float | Float[Array, ""], step: Float[Array, ""], total_steps: int) -> Float[Array, ""]:
    """initial · (1 − step / total_steps), never below 0; both counts in **environment steps**, at the update's start.

    Counting environment steps keeps the end of the schedule at the end of the run for any number of epochs,
    minibatches and environments.
    """
    return initial * jnp.maximum(0.0, 1.0 - step / float(total_steps))


def kl_adaptive(
    learning_rate: Float[Array, ""], kl: Float[Array, ""], target: float | Float[Array, ""]
) -> Float[Array, ""]:
    """Divides the learning rate by 1.5 where KL > 2·target, multiplies it by 1.5 where KL < ½·target.

    The scheme of rl_games and rsl_rl; a KL that is not a number leaves the rate as it is.
    """
    factor = jnp.where(kl > 2.0 * target, 1.0 / 1.5, jnp.where(kl < 0.5 * target, 1.5, 1.0))
    return jnp.clip(learning_rate * factor, *KL_ADAPTIVE_RANGE)


def current_rate(
    schedule: Schedule, initial: float | Float[Array, ""], state: LearnerState, total_steps: int
) -> Float[Array, ""]:
    """The learning rate that an update starts with: on the line, or the one that the last update left."""
    if schedule == "linear":
        return linear(initial, state.step.as_float(), total_steps)
    return state.learning_rate
