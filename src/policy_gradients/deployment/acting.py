"""What stands between a simulator and a policy, for every runtime: stacked frames, and an action when one is refused.

Both hold what they remember, so each control loop needs its own.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from policy_gradients.deployment.description import PolicyDescription
from policy_gradients.deployment.observations import RefusedObservation


class FrameStack:
    """The observation that a policy trained on stacked frames takes, from the simulator's single ones.

    Args:
        description: Of the policy; with `observation.frames` 1, frames pass unchanged.
    """

    def __init__(self, description: PolicyDescription) -> None:
        observation = description.observation
        self._frames = observation.frames
        self._stack = np.zeros(observation.shape, observation.dtype)

    def reset(self, obs: ArrayLike) -> np.ndarray:
        """The stack at the beginning of an episode: its first observation, repeated."""
        first = np.asarray(obs)
        self._stack = np.concatenate([first] * self._frames, axis=-1) if self._frames > 1 else first
        return self._stack

    def push(self, obs: ArrayLike) -> np.ndarray:
        """The stack with the newest observation last and the oldest gone."""
        newest = np.asarray(obs)
        if self._frames == 1:
            return newest
        self._stack = np.concatenate([self._stack[..., newest.shape[-1] :], newest], axis=-1)
        return self._stack


class HoldLastAction:
    """A policy that repeats its last action where an observation is refused, for loops that have to go on.

    Args:
        policy: Any runtime's policy.
        first: The action while none has been taken yet.
        at_most: Refusals in a row that are bridged; the next one raises, because a robot that has not seen anything
            for long should stop.

    Attributes:
        held: Refusals in a row so far; 0 after an observation that was accepted.
        reason: The sentence of the last refusal, or "".
    """

    def __init__(self, policy: Callable[..., np.ndarray], first: ArrayLike, at_most: int = 10) -> None:
        self._policy = policy
        self._last = np.asarray(first)
        self._at_most = at_most
        self.held = 0
        self.reason = ""

    def __call__(self, obs: ArrayLike, **options: Any) -> np.ndarray:
        """The policy's action, or the last one; options are the policy's.

        Raises:
            RefusedObservation: For the first time after `at_most` in a row.
        """
        try:
            self._last = self._policy(obs, **options)
        except RefusedObservation as refusal:
            self.held, self.reason = self.held + 1, str(refusal)
            if self.held > self._at_most:
                raise
        else:
            self.held = 0
        return self._last.copy()
