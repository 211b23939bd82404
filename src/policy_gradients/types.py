"""The types that every layer shares: what a step of experience, a network and an algorithm are.

Everything in the library is a pair of pure functions and a state you can see: an environment is `(reset, step)`, an
algorithm `(init, update)`. The states are pytrees of arrays, so `jit`, `vmap`, checkpoints and exact resume need no
further machinery.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import optax

Array: TypeAlias = jax.Array
Key: TypeAlias = jax.Array  # a typed key of `jax.random.key`; the function that takes one consumes it
Params: TypeAlias = Any  # pytree of float32 arrays
Obs: TypeAlias = jax.Array
Action: TypeAlias = jax.Array
Metrics: TypeAlias = Mapping[str, Array]  # scalars by name, `group/name` (docs/metrics.md)

ENV_AXIS = "env"
"""The axis of a mesh of devices over which environments, and the rows that come from them, are spread."""


class Transition(NamedTuple):
    """One step of experience; stacked to [T, N] it is a trajectory.

    `terminated`, `truncated` and `next_obs` together make the field's commonest bug unwritable: a time limit is not
    the end of the decision process, and what follows it is valued from the state before the reset.
    """

    obs: Array  # s_t, raw, as the environment gave it                    [*batch, *obs]
    action: Array  # a_t, as the policy drew it (unclipped, before tanh)  [*batch, *action]
    log_prob: Array  # log π(a_t | s_t) when drawn, nats                  [*batch]
    reward: Array  # r_{t+1}, unscaled                                    [*batch]
    next_obs: Array  # s_{t+1}, BEFORE any reset                          [*batch, *obs]
    terminated: Array  # bool: the MDP ended, V(s_{t+1}) = 0              [*batch]
    truncated: Array  # bool: a limit cut it, bootstrap V(s_{t+1})        [*batch]
    valid: Array  # bool: False for a simulator's dummy reset step        [*batch]


class Distribution(Protocol):
    """A batch of action distributions; `event` is the action as drawn (docs/design.md, "The action map")."""

    def sample(self, key: Key) -> Array: ...
    def log_prob(self, action: Array) -> Array: ...
    def entropy(self) -> Array: ...
    def kl(self, other: Any) -> Array: ...
    def kl_parts(self, other: Any) -> Mapping[str, Array]: ...
    def mode(self) -> Array: ...


class ActorCritic(NamedTuple):
    """A policy and a critic over one pytree of parameters; observations arrive already normalised."""

    obs: jax.ShapeDtypeStruct  # of one observation
    init: Callable[[Key], Params]
    policy: Callable[[Params, Obs], Any]  # -> Distribution over the batch axes of obs
    value: Callable[[Params, Obs], Array]  # -> [*batch]


class LearnerState(NamedTuple):
    """All there is to save of a learner; with the environment's state it is the whole run."""

    params: Params
    opt_state: optax.OptState
    statistics: Any  # `estimation.normalization.Statistics`
    step: Any  # `estimation.normalization.Count`: environment steps taken, exact past 2³¹
    learning_rate: Array  # the one in use, float32; moves only under a KL-adaptive schedule
    n_updates: Array  # gradient steps taken, int32


class Algorithm(NamedTuple):
    """An on-policy learner: `update(key, state, trajectory) -> (state, metrics)`. It never touches an environment."""

    init: Callable[[Key], LearnerState]
    update: Callable[[Key, LearnerState, Transition], tuple[LearnerState, Metrics]]
