"""Humanoid and HumanoidStandup: run along x on two legs; get up from the floor."""

from abc import ABC
from dataclasses import dataclass
from functools import cached_property
from math import inf

from policy_gradients.environments.mujoco.tasks.rules import (
    Array,
    Fields,
    PerturbedStart,
    clip,
    healthy_bonus,
    indexed,
    square_norm,
)

_WIDTHS = {"cinert": 10, "cvel": 6, "cfrc_ext": 6}  # numbers per body


@dataclass(frozen=True, eq=False, kw_only=True)
class HumanoidBody(PerturbedStart, ABC):
    """What both tasks see: positions, velocities, inertias, body velocities, actuator forces and contact forces.

    v5 leaves out what is always zero: the world's rows and the forces of actuators on the free root.

    Attributes:
        version: 4 or 5.
        ctrl_cost_weight: w_c, of the squared control.
        exclude_current_positions_from_observation: Hide x and y, so that the task looks alike everywhere.
        include_cinert_in_observation: v5: show the bodies' inertias.
        include_cvel_in_observation: v5: show the bodies' velocities.
        include_qfrc_actuator_in_observation: v5: show the actuators' forces.
        include_cfrc_ext_in_observation: v5: show the contact forces.
    """

    version: int
    ctrl_cost_weight: float
    exclude_current_positions_from_observation: bool = True
    include_cinert_in_observation: bool = True
    include_cvel_in_observation: bool = True
    include_qfrc_actuator_in_observation: bool = True
    include_cfrc_ext_in_observation: bool = True

    @cached_property
    def shown(self) -> dict[str, int]:
        """Fields in the observation after `qpos` and `qvel`, each with how many leading numbers it leaves out."""
        skipped = {"cinert": 10, "cvel": 6, "qfrc_actuator": 6, "cfrc_ext": 6}
        return {
            name: skip if self.version == 5 else 0
            for name, skip in skipped.items()
            if getattr(self, f"include_{name}_in_observation")
        }

    @property
    def obs_names(self) -> tuple[str, ...]:
        skipped = 2 * self.exclude_current_positions_from_observation
        names = self.constants.qpos_names[skipped:] + self.constants.qvel_names
        for field, skip in self.shown.items():
            if field == "qfrc_actuator":
                numbers = tuple(f"{field}.{name.removeprefix('qvel.')}" for name in self.constants.qvel_names)
            else:
                bodies = (f"{field}.{body}" for body in self.constants.bodies)
                numbers = tuple(name for body in bodies for name in indexed(body, _WIDTHS[field]))
            names += numbers[skip:]
        return names

    def observe(self, fields: Fields) -> Array:
        qpos = fields["qpos"]
        batch = qpos.shape[:-1]
        parts = [qpos[..., 2 * self.exclude_current_positions_from_observation :], fields["qvel"]]
        parts += [fields[name].reshape(*batch, -1)[..., skip:] for name, skip in self.shown.items()]
        return qpos.__array_namespace__().concatenate(parts, axis=-1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Humanoid(HumanoidBody):
    """Run along x without falling.

        r = w_f (c′ − c)/dt + w_h·healthy − w_c ‖u‖² − clip(w_k ‖f‖²)

    c is the x of the centre of mass where `mj_step` says it was one physics step ago; f is `cfrc_ext`, which only v5
    charges. v4 pays w_h in every step of a task that ends when unhealthy; v5 pays it to the healthy only.

    Attributes:
        forward_reward_weight: w_f, per metre and second.
        contact_cost_weight: w_k; 0 in v4.
        contact_cost_range: Limits of the contact cost.
        healthy_reward: w_h.
        terminate_when_unhealthy: End the episode when the robot is unhealthy.
        healthy_z_range: Height of the torso within which the robot is healthy, metres, exclusive.
    """

    forward_reward_weight: float
    contact_cost_weight: float = 0.0
    contact_cost_range: tuple[float, float] = (-inf, 10.0)
    healthy_reward: float
    terminate_when_unhealthy: bool
    healthy_z_range: tuple[float, float]

    @property
    def reads(self) -> tuple[str, ...]:
        forces = ("cfrc_ext",) if self.charges_forces else ()
        return tuple(dict.fromkeys(("qpos", "qvel", "ctrl", "xipos", *self.shown, *forces)))

    @property
    def charges_forces(self) -> bool:
        """True where the contact forces cost."""
        return can_cost(self.contact_cost_weight, self.contact_cost_range)

    @property
    def terminates(self) -> bool:
        return self.terminate_when_unhealthy

    def measure(self, fields: Fields) -> Array:
        positions = fields["xipos"]
        xp = positions.__array_namespace__()
        masses = xp.asarray(self.constants.masses, dtype=positions.dtype)
        return (xp.einsum("b,...bj->...j", masses, positions) / masses.sum())[..., :1]

    def healthy(self, fields: Fields) -> Array:
        z, (low, high) = fields["qpos"][..., 2], self.healthy_z_range
        return (low < z) & (z < high)

    def reward(self, before: Array, after: Array, fields: Fields, action: Array, healthy: Array) -> Array:
        velocity = (after[..., 0] - before[..., 0]) / self.constants.dt
        bonus = healthy_bonus(self.healthy_reward, healthy, self.version == 4 and self.terminate_when_unhealthy)
        cost = self.ctrl_cost_weight * square_norm(fields["ctrl"])
        if self.charges_forces:
            cost = cost + contact_cost(self.contact_cost_weight, self.contact_cost_range, fields["cfrc_ext"])
        return self.forward_reward_weight * velocity + bonus - cost


@dataclass(frozen=True, eq=False, kw_only=True)
class HumanoidStandup(HumanoidBody):
    """Get up from lying on the floor and stay up; nothing but the time limit ends an episode.

        r = z/h − w_c ‖u‖² − clip(w_k ‖f‖²) + 1

    z is the height of the torso, metres; h the physics' timestep, seconds; f is `cfrc_ext`.

    Attributes:
        uph_cost_weight: Accepted for Gymnasium's sake, which (1.4) does not use it either.
        impact_cost_weight: w_k.
        impact_cost_range: Limits of the impact cost.
    """

    uph_cost_weight: float = 1.0
    impact_cost_weight: float
    impact_cost_range: tuple[float, float] = (-inf, 10.0)

    @property
    def reads(self) -> tuple[str, ...]:
        forces = ("cfrc_ext",) if self.charges_forces else ()
        return tuple(dict.fromkeys(("qpos", "qvel", "ctrl", *self.shown, *forces)))

    @property
    def charges_forces(self) -> bool:
        """True where the contact forces cost."""
        return can_cost(self.impact_cost_weight, self.impact_cost_range)

    def reward(self, before: Array, after: Array, fields: Fields, action: Array, healthy: Array) -> Array:
        rise = fields["qpos"][..., 2] / self.constants.timestep
        reward = rise - self.ctrl_cost_weight * square_norm(fields["ctrl"])
        if self.charges_forces:
            reward = reward - contact_cost(self.impact_cost_weight, self.impact_cost_range, fields["cfrc_ext"])
        return reward + 1.0


def can_cost(weight: float, limits: tuple[float, float]) -> bool:
    """Whether clip(weight ‖f‖²) can be anything but 0."""
    return weight != 0 or not limits[0] <= 0 <= limits[1]


def contact_cost(weight: float, limits: tuple[float, float], forces: Array) -> Array:
    """clip(weight ‖f‖²) over all bodies' contact forces [*batch, nbody, 6]."""
    return clip(weight * square_norm(forces.reshape(*forces.shape[:-2], -1)), *limits)
