"""Tiny environments that each test one faculty of a learner, with the answer known in closed form.

A learner that fails on a real task may be wrong anywhere. A probe fails for one reason:

| id | the world | what must be learned | a failure points at |
|---|---|---|---|
| ProbeConstantReward-v0 | one step, reward 1 | V = 1 | the critic's loss or its optimiser |
| ProbeObservationReward-v0 | one step, s = ±1, reward s | V(s) = s | the critic's input: order of rows, scale |
| ProbeDelayedReward-v0 | two steps, s = 0, 1; reward 0, 1 | V(0) = γ, V(1) = 1 | discounting, the bootstrap |
| ProbeTwoActions-v0 | one step, reward ±1 by the action | always act 1 | the policy's loss, the sign of the advantage |
| ProbeActionOnObservation-v0 | one step, s = ±1, reward ±1 by the action | act 1 where s = 1, else 0 | joint learning |
| ProbeTimeLimit-v0 | reward 1 for ever, cut after 10 unseen steps | V = 1/(1 − γ) | a time limit taken for an end |
| ProbeMixedLengths-v0 | 2 or 18 steps with even odds, reward 1 | mean return 10 | counting what ends first |

`continuous=True` gives actions in [−1, 1] instead of two; where the action counts, the reward is then −(a − target)²
with target s/2, or 1/2 where s = 0. The best value is then 0, and −σ² for a policy of standard deviation σ around it.

References:
    Jones (2021), Debugging RL, without the agonizing pain (the first five).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from policy_gradients.environments.autoreset import autoreset
from policy_gradients.environments.base import Array, Discrete, Environment, EnvironmentSpec, box
from policy_gradients.errors import UserError, suggest

_TARGET = 0.5  # the best continuous action, on the side that counts; not 0, where policies start


class ProbeSolution(NamedTuple):
    """What a perfect learner knows of a probe; K is the number of observations that it can meet."""

    obs: np.ndarray  # float32                                                              [K, 1]
    value: np.ndarray  # V of each under the best policy, units of the return, float32      [K]
    action: np.ndarray | None  # best action in each, [K] or [K, 1]; None where none counts


class _Probe(NamedTuple):
    """A probe's world. Its hidden state is a sign, ±1 with even odds for the episode, and the steps that are left."""

    observe: Callable[[Array, Array], Array]  # (sign, left) -> s
    reward: Callable[[Array, Array, Array], Array]  # (sign, left before the step, merit of the action) -> reward
    value: Callable[[float, float], Mapping[float, float]]  # (γ, merit of the best action) -> V by s
    lengths: tuple[int, int] | None = (1, 1)  # steps of an episode, with even odds; None: it never ends
    side: Callable[[Any], Any] | None = None  # s -> ±1, the side of the best action; None where no action counts
    max_episode_steps: int | None = None


def _zero(sign: Array, left: Array) -> Array:
    return jnp.zeros_like(sign)


def _sign(sign: Array, left: Array) -> Array:
    return sign


def _one(sign: Array, left: Array, merit: Array) -> Array:
    return jnp.ones_like(sign)


def _merit(sign: Array, left: Array, merit: Array) -> Array:
    return merit


_PROBES: Mapping[str, _Probe] = {
    "ProbeConstantReward-v0": _Probe(_zero, _one, lambda gamma, best: {0: 1}),
    "ProbeObservationReward-v0": _Probe(_sign, lambda sign, left, merit: sign, lambda gamma, best: {-1: -1, 1: 1}),
    "ProbeDelayedReward-v0": _Probe(
        observe=lambda sign, left: (left == 1).astype(jnp.float32),
        reward=lambda sign, left, merit: (left == 1).astype(jnp.float32),
        value=lambda gamma, best: {0: gamma, 1: 1},
        lengths=(2, 2),
    ),
    "ProbeTwoActions-v0": _Probe(_zero, _merit, lambda gamma, best: {0: best}, side=lambda s: 1),
    "ProbeActionOnObservation-v0": _Probe(_sign, _merit, lambda gamma, best: {-1: best, 1: best}, side=lambda s: s),
    "ProbeTimeLimit-v0": _Probe(
        _zero, _one, lambda gamma, best: {0: 1 / (1 - gamma)}, lengths=None, max_episode_steps=10
    ),
    "ProbeMixedLengths-v0": _Probe(
        observe=lambda sign, left: left.astype(jnp.float32) / 32,  # a power of two: exact in float32
        reward=_one,
        value=lambda gamma, best: {k / 32: sum(gamma**i for i in range(k)) for k in range(1, 19)},
        lengths=(2, 18),
    ),
}
PROBE_IDS = tuple(_PROBES)


def make_probe(
    id: str, num_envs: int, max_episode_steps: int | None = None, continuous: bool = False, stagger: bool = False
) -> Environment:
    """A probe as `num_envs` copies inside the compiled program.

    Args:
        id: One of `PROBE_IDS`.
        num_envs: N, copies stepped together.
        max_episode_steps: Environment steps after which an episode is truncated; None for the probe's own limit, which
            only ProbeTimeLimit-v0 has.
        continuous: One real action in [−1, 1] instead of two discrete ones.
        stagger: Cut first episodes short at different times (`base.first_elapsed`).

    Raises:
        UserError: Unknown id, or `continuous` is no bool.
    """
    probe = _find(id)
    if not isinstance(continuous, bool):
        raise UserError(f"{id}: continuous must be true or false, not {continuous!r}.")

    def reset(key: Array) -> tuple[tuple[Array, Array], Array]:
        heads = jax.random.bernoulli(key)
        sign = jnp.where(heads, 1.0, -1.0).astype(jnp.float32)
        left = jnp.int32(0) if probe.lengths is None else jnp.where(heads, *probe.lengths).astype(jnp.int32)
        return (sign, left), probe.observe(sign, left)[None]

    def merit(action: Array, side: Array) -> Array:
        if continuous:
            return -((action[0] - _TARGET * side) ** 2)
        return jnp.where((action == 1) == (side > 0), 1.0, -1.0)

    def step(key: Array, state: tuple[Array, Array], action: Array) -> tuple[Any, Array, Array, Array]:
        sign, left = state
        side = jnp.float32(probe.side(probe.observe(sign, left)) if probe.side else 1)
        reward = probe.reward(sign, left, merit(action, side))
        left = left if probe.lengths is None else left - 1
        terminated = jnp.bool_(False) if probe.lengths is None else left == 0
        return (sign, left), probe.observe(sign, left)[None], reward, terminated

    limit = probe.max_episode_steps if max_episode_steps is None else max_episode_steps
    unit_box = box(-1, 1, (1,))
    spec = EnvironmentSpec(
        id=id,
        engine="jax",
        num_envs=num_envs,
        obs_space=unit_box,
        action_space=unit_box if continuous else Discrete(2),
        control_bounds=unit_box if continuous else None,
        obs_names=("s",),
    )
    return autoreset(spec, reset, step, limit, stagger=stagger)


def probe_solution(id: str, gamma: float, continuous: bool = False) -> ProbeSolution:
    """The values and actions that a learner must find on a probe.

    Args:
        id: One of `PROBE_IDS`.
        gamma: Discount γ in [0, 1).
        continuous: As for `make_probe`.

    Raises:
        UserError: Unknown id.
    """
    probe = _find(id)
    value = probe.value(gamma, 0.0 if continuous else 1.0)
    obs = np.array(list(value), np.float32)
    action = None
    if probe.side:
        sides = np.array([probe.side(s) for s in value])
        action = (_TARGET * sides[:, None]).astype(np.float32) if continuous else (sides > 0).astype(np.int32)
    return ProbeSolution(obs[:, None], np.array(list(value.values()), np.float32), action)


def _find(id: str) -> _Probe:
    if id not in _PROBES:
        raise UserError(f"{id!r} is no probe: expected one of {', '.join(PROBE_IDS)}.{suggest(id, PROBE_IDS)}")
    return _PROBES[id]
