"""InvertedPendulum and InvertedDoublePendulum: keep poles on a cart upright."""

from dataclasses import dataclass

from policy_gradients.environments.mujoco.tasks.rules import Array, Fields, PerturbedStart, clip


@dataclass(frozen=True, eq=False, kw_only=True)
class InvertedPendulum(PerturbedStart):
    """One pole; r = 1 while |θ| ≤ 0.2 rad, which else ends the episode (v4 pays the last step too, v5 does not).

    Attributes:
        version: 4 or 5.
    """

    version: int

    @property
    def reads(self) -> tuple[str, ...]:
        return ("qpos", "qvel")

    @property
    def terminates(self) -> bool:
        return True

    @property
    def obs_names(self) -> tuple[str, ...]:
        return self.constants.qpos_names + self.constants.qvel_names

    def observe(self, fields: Fields) -> Array:
        qpos = fields["qpos"]
        return qpos.__array_namespace__().concatenate([qpos, fields["qvel"]], axis=-1)

    def healthy(self, fields: Fields) -> Array:
        obs = self.observe(fields)
        xp = obs.__array_namespace__()
        return xp.isfinite(obs).all(-1) & (xp.abs(obs[..., 1]) <= 0.2)

    def reward(self, before: Array, after: Array, fields: Fields, action: Array, healthy: Array) -> Array:
        angle = fields["qpos"][..., 1]
        xp = angle.__array_namespace__()
        return xp.ones_like(angle) if self.version == 4 else healthy.astype(angle.dtype)


@dataclass(frozen=True, eq=False, kw_only=True)
class InvertedDoublePendulum(PerturbedStart):
    """Two poles, one on the other; the episode ends when the tip is at 1 m or lower.

        r = w_h·healthy − (0.01 x² + (y − 2)²) − (10⁻³ ω₁² + 5·10⁻³ ω₂²)

    (x, y) is the tip, metres, where `mj_step` says it was one physics step ago; ω the poles' velocities. v4 pays w_h in
    the last step too and observes the constraint force of every joint, v5 of the cart alone. Squares are taken with the
    C library's `pow`, as Gymnasium's are: one in a thousand differs from x·x in the last place.

    Attributes:
        version: 4 or 5.
        healthy_reward: w_h.
    """

    version: int
    healthy_reward: float

    @property
    def reads(self) -> tuple[str, ...]:
        return ("qpos", "qvel", "qfrc_constraint", "site_xpos")

    @property
    def terminates(self) -> bool:
        return True

    @property
    def forces(self) -> int:
        """How many joints' constraint forces are observed."""
        return 1 if self.version == 5 else len(self.constants.qvel_names)

    @property
    def obs_names(self) -> tuple[str, ...]:
        positions, velocities = self.constants.qpos_names, self.constants.qvel_names
        angles = tuple(f"{function}({name})" for function in ("sin", "cos") for name in positions[1:])
        forces = tuple(name.replace("qvel", "qfrc_constraint") for name in velocities[: self.forces])
        return positions[:1] + angles + velocities + forces

    def observe(self, fields: Fields) -> Array:
        qpos = fields["qpos"]
        xp, angles = qpos.__array_namespace__(), qpos[..., 1:]
        forces = clip(fields["qfrc_constraint"][..., : self.forces], -10.0, 10.0)
        qvel = clip(fields["qvel"], -10.0, 10.0)
        return xp.concatenate([qpos[..., :1], xp.sin(angles), xp.cos(angles), qvel, forces], axis=-1)

    def healthy(self, fields: Fields) -> Array:
        return ~(fields["site_xpos"][..., 0, 2] <= 1)

    def reward(self, before: Array, after: Array, fields: Fields, action: Array, healthy: Array) -> Array:
        xp = healthy.__array_namespace__()
        tip, spin = fields["site_xpos"][..., 0, :], xp.float_power(fields["qvel"][..., 1:], 2)
        distance = 0.01 * xp.float_power(tip[..., 0], 2) + xp.float_power(tip[..., 2] - 2, 2)
        velocity = 1e-3 * spin[..., 0] + 5e-3 * spin[..., 1]
        bonus = self.healthy_reward if self.version == 4 else xp.where(healthy, self.healthy_reward, 0.0)
        return bonus - distance - velocity
