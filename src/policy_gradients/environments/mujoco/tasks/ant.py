"""Ant: a four-legged robot that runs along x on a plane."""

from dataclasses import dataclass
from functools import cached_property

from policy_gradients.environments.mujoco.tasks.rules import (
    Array,
    Fields,
    PerturbedStart,
    clip,
    healthy_bonus,
    indexed,
    square_norm,
)
from policy_gradients.errors import UserError, suggest


@dataclass(frozen=True, eq=False, kw_only=True)
class Ant(PerturbedStart):
    """Run along x without falling or jumping.

        r = w_f (x′ − x)/dt + w_h·healthy − w_c ‖a‖² − w_k ‖clip(f)‖²

    x is where `mj_step` says the torso was one physics step ago, and f the contact forces `cfrc_ext` of all bodies. v4
    counts and shows f only with `use_contact_forces`, and pays w_h in every step of a task that ends when unhealthy; v5
    always counts f, shows it without the world's row, and pays w_h to the healthy only.

    Attributes:
        version: 4 or 5.
        forward_reward_weight: w_f, per metre and second; v4 has no such option, it is 1.
        ctrl_cost_weight: w_c.
        contact_cost_weight: w_k.
        healthy_reward: w_h.
        main_body: The body, by name or number, whose x counts.
        terminate_when_unhealthy: End the episode when the robot is unhealthy.
        healthy_z_range: Height of the torso within which the robot is healthy, metres, inclusive.
        contact_force_range: Limits of f, newtons and newton metres.
        exclude_current_positions_from_observation: Hide x and y, so that the task looks alike everywhere.
        use_contact_forces: v4: count and show f.
        include_cfrc_ext_in_observation: v5: show f.
    """

    version: int
    forward_reward_weight: float = 1.0
    ctrl_cost_weight: float
    contact_cost_weight: float
    healthy_reward: float
    main_body: int | str = "torso"
    terminate_when_unhealthy: bool
    healthy_z_range: tuple[float, float]
    contact_force_range: tuple[float, float]
    exclude_current_positions_from_observation: bool
    use_contact_forces: bool = True
    include_cfrc_ext_in_observation: bool = True

    @property
    def reads(self) -> tuple[str, ...]:
        return ("qpos", "qvel", "xpos", *(("cfrc_ext",) if self.shows_forces or self.charges_forces else ()))

    @property
    def terminates(self) -> bool:
        return self.terminate_when_unhealthy

    @property
    def shows_forces(self) -> bool:
        """True where the contact forces are part of the observation."""
        return self.use_contact_forces and self.include_cfrc_ext_in_observation

    @property
    def charges_forces(self) -> bool:
        """True where the contact forces cost."""
        return self.use_contact_forces and self.contact_cost_weight != 0

    @property
    def obs_names(self) -> tuple[str, ...]:
        skipped = 2 * self.exclude_current_positions_from_observation
        names = self.constants.qpos_names[skipped:] + self.constants.qvel_names
        bodies = self.constants.bodies[self.version - 4 :] if self.shows_forces else ()
        return names + tuple(name for body in bodies for name in indexed(f"cfrc_ext.{body}", 6))

    def observe(self, fields: Fields) -> Array:
        qpos = fields["qpos"]
        parts = [qpos[..., 2 * self.exclude_current_positions_from_observation :], fields["qvel"]]
        if self.shows_forces:
            parts.append(self._contact_forces(fields)[..., 6 * (self.version - 4) :])
        return qpos.__array_namespace__().concatenate(parts, axis=-1)

    def _contact_forces(self, fields: Fields) -> Array:
        forces = fields["cfrc_ext"]
        return clip(forces.reshape(*forces.shape[:-2], -1), *self.contact_force_range)

    @cached_property
    def _body(self) -> int:
        bodies = self.constants.bodies
        if isinstance(self.main_body, str) and self.main_body in bodies:
            return bodies.index(self.main_body)
        if isinstance(self.main_body, int) and -len(bodies) <= self.main_body < len(bodies):
            return self.main_body
        raise UserError(
            f"main_body names or numbers a body of the model ({', '.join(bodies)}), but {self.main_body!r} came."
            + suggest(str(self.main_body), bodies)
        )

    def measure(self, fields: Fields) -> Array:
        return fields["xpos"][..., self._body, :1]

    def healthy(self, fields: Fields) -> Array:
        qpos, qvel = fields["qpos"], fields["qvel"]
        xp, (low, high) = qpos.__array_namespace__(), self.healthy_z_range
        z = qpos[..., 2]
        return xp.isfinite(qpos).all(-1) & xp.isfinite(qvel).all(-1) & (low <= z) & (z <= high)

    def reward(self, before: Array, after: Array, fields: Fields, action: Array, healthy: Array) -> Array:
        velocity = (after[..., 0] - before[..., 0]) / self.constants.dt
        bonus = healthy_bonus(self.healthy_reward, healthy, self.version == 4 and self.terminate_when_unhealthy)
        cost = self.ctrl_cost_weight * square_norm(action)
        if self.charges_forces:
            cost = cost + self.contact_cost_weight * square_norm(self._contact_forces(fields))
        return self.forward_reward_weight * velocity + bonus - cost
