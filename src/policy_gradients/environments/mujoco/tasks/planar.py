"""HalfCheetah, Swimmer, Hopper and Walker2d: robots that run along x in a plane."""

from abc import ABC
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from policy_gradients.environments.mujoco.tasks.rules import (
    Array,
    Fields,
    PerturbedStart,
    clip,
    healthy_bonus,
    like,
    square_norm,
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Planar(PerturbedStart, ABC):
    """What the planar robots share: positions and velocities are seen, x is measured.

    Attributes:
        forward_reward_weight: w_f, per metre and second.
        ctrl_cost_weight: w_c.
        exclude_current_positions_from_observation: Hide where the robot is, so that the task looks alike everywhere.
        hidden: How many leading coordinates of `qpos` say where the robot is.
    """

    forward_reward_weight: float
    ctrl_cost_weight: float
    exclude_current_positions_from_observation: bool
    hidden: int = 1

    @property
    def reads(self) -> tuple[str, ...]:
        return ("qpos", "qvel")

    @cached_property
    def skipped(self) -> int:
        """How many leading coordinates of `qpos` the observation leaves out."""
        return self.hidden if self.exclude_current_positions_from_observation else 0

    @property
    def obs_names(self) -> tuple[str, ...]:
        return self.constants.qpos_names[self.skipped :] + self.constants.qvel_names

    def measure(self, fields: Fields) -> Array:
        return fields["qpos"][..., :1]

    def progress(self, before: Array, after: Array) -> Array:
        """w_f (x′ − x)/dt."""
        return self.forward_reward_weight * ((after[..., 0] - before[..., 0]) / self.constants.dt)


@dataclass(frozen=True, eq=False, kw_only=True)
class Runner(Planar):
    """HalfCheetah and Swimmer: nothing but the time limit ends an episode.

    r = w_f (x′ − x)/dt − w_c ‖a‖²
    """

    def observe(self, fields: Fields) -> Array:
        qpos, qvel = fields["qpos"], fields["qvel"]
        return qpos.__array_namespace__().concatenate([qpos[..., self.skipped :], qvel], axis=-1)

    def reward(self, before: Array, after: Array, fields: Fields, action: Array, healthy: Array) -> Array:
        return self.progress(before, after) - self.ctrl_cost_weight * square_norm(action)


@dataclass(frozen=True, eq=False, kw_only=True)
class Walker(Planar):
    """Hopper and Walker2d: run along x without falling.

    r = w_f (x′ − x)/dt + w_h·healthy − w_c ‖a‖²

    v4 pays w_h in every step of a task that ends when unhealthy, also in the last; v5 pays it to the healthy only.

    Attributes:
        version: 4 or 5.
        healthy_reward: w_h.
        terminate_when_unhealthy: End the episode when the robot is unhealthy.
        healthy_z_range: Height of the torso within which the robot is healthy, metres, exclusive.
        healthy_angle_range: Pitch of the torso likewise, radians.
        healthy_state_range: Pitch and every further position and velocity likewise; None for Walker2d, which does not
            look at them.
    """

    version: int
    healthy_reward: float
    terminate_when_unhealthy: bool
    healthy_z_range: tuple[float, float]
    healthy_angle_range: tuple[float, float]
    healthy_state_range: tuple[float, float] | None = None

    @property
    def terminates(self) -> bool:
        return self.terminate_when_unhealthy

    def observe(self, fields: Fields) -> Array:
        qpos, qvel = fields["qpos"], clip(fields["qvel"], -10.0, 10.0)
        return qpos.__array_namespace__().concatenate([qpos[..., self.skipped :], qvel], axis=-1)

    @cached_property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper limits of z, pitch and, where the state range counts, all that follows in the state."""
        z, angle = np.array(self.healthy_z_range, float), np.array(self.healthy_angle_range, float)
        if self.healthy_state_range is None:
            return np.array([z[0], angle[0]]), np.array([z[1], angle[1]])
        low, high = self.healthy_state_range
        rest = len(self.constants.qpos_names) + len(self.constants.qvel_names) - 3
        lower = np.array([z[0], max(angle[0], low), *[low] * rest])
        return lower, np.array([z[1], min(angle[1], high), *[high] * rest])

    def healthy(self, fields: Fields) -> Array:
        lower, upper = self.bounds
        state = fields["qpos"][..., 1:3]
        if self.healthy_state_range is not None:
            xp = state.__array_namespace__()
            state = xp.concatenate([fields["qpos"][..., 1:], fields["qvel"]], axis=-1)
        return ((like(lower, state) < state) & (state < like(upper, state))).all(-1)

    def reward(self, before: Array, after: Array, fields: Fields, action: Array, healthy: Array) -> Array:
        bonus = healthy_bonus(self.healthy_reward, healthy, self.version == 4 and self.terminate_when_unhealthy)
        return self.progress(before, after) + bonus - self.ctrl_cost_weight * square_norm(action)
