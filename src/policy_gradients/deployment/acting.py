"""What stands between a simulator and a policy, for every runtime: stacked frames, and an action when one is refused.

Both hold what they remember, so each control loop needs its own.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from policy_gradients.deployment.description import PolicyDescription, shown
from policy_gradients.deployment.observations import ObservationCheck, RefusedObservation
from policy_gradients.errors import UserError


class FrameStack:
    """The observation that a policy trained on stacked frames takes, from the simulator's single ones.

    A frame that the policy would refuse is refused here and not remembered, so one bad frame costs one action. To
    bridge it, hold the last action around both: `HoldLastAction(lambda obs: policy(stack.push(obs)), first)`.

    Args:
        description: Of the policy; with `observation.frames` 1, frames pass as they are.
    """

    def __init__(self, description: PolicyDescription) -> None:
        observation = description.observation
        self._frames = observation.frames
        if self._frames > 1:
            *rows, last = observation.shape
            observation = replace(observation, shape=(*rows, last // self._frames), frames=1)
        self._check = ObservationCheck(observation)
        self._stack: np.ndarray | None = None

    def reset(self, obs: ArrayLike) -> np.ndarray:
        """The stack at the beginning of an episode: its first observation, repeated.

        Raises:
            RefusedObservation: The frame has another shape or type, or holds a NaN or an infinity.
        """
        first = self._check(obs)
        self._stack = np.concatenate([first] * self._frames, axis=-1) if self._frames > 1 else first
        return self._stack

    def push(self, obs: ArrayLike) -> np.ndarray:
        """The stack with the newest observation last and the oldest gone.

        Raises:
            RefusedObservation: As for `reset`; the stack stays as it was.
            UserError: No episode has begun.
        """
        newest = self._check(obs)
        if self._frames == 1:
            return newest
        if self._stack is None:
            raise UserError("FrameStack: call reset with an episode's first observation before the first push.")
        if newest.shape[:-1] != self._stack.shape[:-1]:
            raise RefusedObservation(
                f"The frame has the shape {newest.shape}, which does not fit the stack of shape {self._stack.shape}."
            )
        self._stack = np.concatenate([self._stack[..., newest.shape[-1] :], newest], axis=-1)
        return self._stack


class HoldLastAction:
    """A policy that repeats its last action where an observation is refused, for loops that have to go on.

    Args:
        policy: Any runtime's policy, or a function that calls one.
        first: The action while none has been taken yet. Its shape is that of all actions to come.
        at_most: Refusals in a row that are bridged; the next one raises, because a robot that has not seen anything
            for long should stop.

    Attributes:
        description: The policy's; None of a function.
        held: Refusals in a row so far; 0 after an observation that was accepted.
        reason: The sentence of the last refusal, or "".

    Raises:
        UserError: `first` is not an action of the policy.
    """

    def __init__(self, policy: Callable[..., np.ndarray], first: ArrayLike, at_most: int = 10) -> None:
        self.description: PolicyDescription | None = getattr(policy, "description", None)
        self._policy = policy
        self._last = _first_action(first, self.description)
        self._at_most = at_most
        self.held = 0
        self.reason = ""

    def __call__(self, obs: ArrayLike, **options: Any) -> np.ndarray:
        """The policy's action, or the last one; options are the policy's.

        Raises:
            RefusedObservation: For the first time after `at_most` in a row.
            UserError: The policy answers with another number of actions than `first` had.
        """
        try:
            action = self._policy(obs, **options)
        except RefusedObservation as refusal:
            self.held, self.reason = self.held + 1, str(refusal)
            if self.held > self._at_most:
                raise
        else:
            if action.shape != self._last.shape:
                raise UserError(
                    f"HoldLastAction: first has the shape {self._last.shape}, but the policy's action {action.shape}; "
                    "a first action for each observation of a batch is needed, and the same batch at each step."
                )
            self._last, self.held = action, 0
        return self._last.copy()


def _first_action(first: ArrayLike, description: PolicyDescription | None) -> np.ndarray:
    """A copy of the action before the first one; checked, and of the policy's dtype, where that is known."""
    try:
        action = np.array(first)
    except (TypeError, ValueError):
        action = np.array(None)
    if action.dtype.kind not in "fiu" or not np.isfinite(action).all():
        raise UserError(f"HoldLastAction: first should be an action of finite numbers, not {shown(first)}.")
    if description is None:
        return action
    expected = description.action
    dtype = np.int64 if expected.kind == "discrete" else np.float32
    if action.shape[action.ndim - len(expected.shape) :] != expected.shape or not np.can_cast(
        action.dtype, dtype, "same_kind"
    ):
        raise UserError(
            f"HoldLastAction: first should be a {np.dtype(dtype)} action of shape {expected.shape}, as the policy's, "
            f"not {action.dtype} of shape {action.shape}."
        )
    return action.astype(dtype)[()]  # of one discrete action the scalar, as policies give it
