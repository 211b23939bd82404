"""What a MuJoCo task is apart from its physics: rules, as pure functions of MjData's fields.

The same functions run on NumPy float64 beside MuJoCo's C engine and on JAX float32 inside a compiled program: they ask
an array for its namespace, branch on nothing that is data and write to nothing. In float64 every operation is the one
that Gymnasium performs, in its order, so that results agree to the last bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Array: TypeAlias = Any  # np.ndarray or jax.Array; a function returns the kind that it was given
Fields: TypeAlias = Mapping[str, Array]  # MjData's arrays by MjData's names                     [*batch, ...]


class Constants(NamedTuple):
    """What rules read from a task's compiled model.

    Attributes:
        dt: Seconds of simulated time per environment step.
        timestep: Seconds per step of the physics.
        qpos: The model's reference configuration; episodes start around it, at rest.   [nq]
        masses: Body masses, kilograms; body 0 is the world.                            [nbody]
        bodies: Names of the bodies.
        qpos_names, qvel_names: Names of the coordinates of `qpos` and `qvel`.
    """

    dt: float
    timestep: float
    qpos: np.ndarray
    masses: np.ndarray
    bodies: tuple[str, ...]
    qpos_names: tuple[str, ...]
    qvel_names: tuple[str, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Rules(ABC):
    """Observation, reward, end and start of a task's episodes.

    One environment step is: `after = measure(fields)` once the physics has moved, `alive = healthy(fields)`,
    `reward(before, after, fields, action, alive)`, with `before` the measure kept from the step before. The fields are
    MjData's as `mj_step` leaves them: `qpos` and `qvel` new, whatever is derived from them one physics step old.

    Attributes:
        constants: What is read from the model.
    """

    constants: Constants

    @property
    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """The fields of MjData that the rules read."""

    @property
    def terminates(self) -> bool:
        """True where an unhealthy state ends the episode."""
        return False

    @property
    @abstractmethod
    def draws(self) -> tuple[int, int]:
        """How many uniform draws on [0, 1) and how many standard normal draws `initial_state` takes."""

    @property
    @abstractmethod
    def obs_names(self) -> tuple[str, ...]:
        """Names of the observation's coordinates."""

    @abstractmethod
    def observe(self, fields: Fields) -> Array:
        """The observation [*batch, obs]."""

    def measure(self, fields: Fields) -> Array:
        """What the reward needs to remember of the state before a step [*batch, k]; nothing by default (k = 0)."""
        return fields["qpos"][..., :0]

    def healthy(self, fields: Fields) -> Array:
        """Bool [*batch]: the robot has not failed; None where it cannot."""
        return None

    @abstractmethod
    def reward(self, before: Array, after: Array, fields: Fields, action: Array, healthy: Array) -> Array:
        """The reward of a step [*batch].

        Args:
            before: `measure` of the state before the step.
            after: `measure` of the state after the step.
            fields: MjData's arrays after the step.
            action: The control as the agent gave it, not clipped to the bounds  [*batch, nu].
            healthy: What `healthy(fields)` returned.
        """

    @abstractmethod
    def initial_state(self, uniform: Array, normal: Array) -> tuple[Array, Array]:
        """`qpos` [*batch, nq] and `qvel` [*batch, nv] at the start of an episode.

        Args:
            uniform: Independent draws from [0, 1)                  [*batch, draws[0]].
            normal: Independent draws from the standard normal      [*batch, draws[1]].
        """


@dataclass(frozen=True, eq=False, kw_only=True)
class PerturbedStart(Rules):
    """Rules of a task that starts near the reference configuration.

    q = q₀ + U(−s, s) per coordinate; q̇ likewise around 0, or s·N(0, 1). A perturbed quaternion keeps the length that
    the noise gave it, as in Gymnasium: the physics normalises what it uses.

    Attributes:
        reset_noise_scale: s; more makes the first states of episodes more diverse.
        normal_velocities: True where velocities are normal, False where they are uniform.
    """

    reset_noise_scale: float
    normal_velocities: bool = False

    @property
    def draws(self) -> tuple[int, int]:
        nq, nv = len(self.constants.qpos_names), len(self.constants.qvel_names)
        return (nq, nv) if self.normal_velocities else (nq + nv, 0)

    def initial_state(self, uniform: Array, normal: Array) -> tuple[Array, Array]:
        scale, nq = self.reset_noise_scale, len(self.constants.qpos_names)
        qpos = like(self.constants.qpos, uniform) + between(-scale, scale, uniform[..., :nq])
        qvel = scale * normal if self.normal_velocities else between(-scale, scale, uniform[..., nq:])
        return qpos, qvel


def like(constant: np.ndarray, x: Array) -> Array:
    """A constant array with the kind and dtype of `x` and axes in front that broadcast against it."""
    shape = (1,) * (x.ndim - constant.ndim) + constant.shape
    return x.__array_namespace__().asarray(constant, dtype=x.dtype).reshape(shape)


def between(low: float, high: float, uniform: Array) -> Array:
    """Draws from [0, 1) moved to [low, high)."""
    return low + (high - low) * uniform


def square_norm(x: Array) -> Array:
    """‖x‖² along the last axis, summed as NumPy's `sum` does (`norm` sums as its `dot` does)."""
    return x.__array_namespace__().square(x).sum(-1)


def norm(x: Array) -> Array:
    """‖x‖ along the last axis, equal to `np.linalg.norm` of each vector."""
    xp = x.__array_namespace__()
    return xp.sqrt(xp.vecdot(x, x))


def clip(x: Array, low: float, high: float) -> Array:
    """x limited to [low, high]; NaN stays NaN."""
    xp = x.__array_namespace__()
    return xp.minimum(xp.maximum(x, low), high)


def healthy_bonus(weight: float, healthy: Array, always: bool) -> Array | float:
    """`weight` for the healthy and 0 for others, or `weight` for everybody."""
    return weight if always else healthy.__array_namespace__().where(healthy, weight, 0.0)


def indexed(name: str, count: int) -> tuple[str, ...]:
    """`name[0]` … `name[count − 1]`."""
    return tuple(f"{name}[{i}]" for i in range(count))
