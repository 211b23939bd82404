"""Reacher and Pusher: arms that reach for a target or push an object to one."""

from abc import ABC
from dataclasses import dataclass

from policy_gradients.environments.mujoco.tasks.rules import Array, Fields, Rules, between, like, norm, square_norm

_CANDIDATES = 64  # all are refused once in 10⁴² episodes of Reacher and once in 10²⁷ of Pusher


def first_acceptable(candidates: Array, acceptable: Array) -> Array:
    """The first acceptable of several candidate points.

    Gymnasium draws until a point is acceptable; a compiled program cannot, so a fixed number is drawn at once. The
    first acceptable of a sequence has the same distribution, and the same value where the draws are the same.

    Args:
        candidates: [*batch, n, 2].
        acceptable: bool [*batch, n].

    Returns:
        [*batch, 2]; the first candidate where none is acceptable.
    """
    xp = candidates.__array_namespace__()
    index = xp.argmax(acceptable, axis=-1)[..., None, None]
    return xp.take_along_axis(candidates, index, axis=-2)[..., 0, :]


@dataclass(frozen=True, eq=False, kw_only=True)
class Arm(Rules, ABC):
    """What the two arms share: body positions are read, and velocities start in U(−0.005, 0.005)."""

    @property
    def reads(self) -> tuple[str, ...]:
        return ("qpos", "qvel", "xpos")

    def _position(self, fields: Fields, body: str) -> Array:
        return fields["xpos"][..., self.constants.bodies.index(body), :]

    def _velocities(self, uniform: Array, still: int) -> Array:
        """Initial velocities from `nv` draws, of which the last `still` come to nothing."""
        xp = uniform.__array_namespace__()
        moving = between(-0.005, 0.005, uniform[..., : uniform.shape[-1] - still])
        return xp.concatenate([moving, xp.zeros_like(uniform[..., -still:])], axis=-1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Reacher(Arm):
    """Bring the tip of a two-joint arm to a target and hold it there: r = −w_d ‖tip − target‖ − w_c ‖a‖².

    Body positions are those of one physics step ago. v4 takes the distance before the step, v5 after it; v4 also shows
    the third coordinate of the distance, which is always 0.

    Attributes:
        version: 4 or 5.
        reward_dist_weight: w_d, per metre.
        reward_control_weight: w_c.
    """

    version: int
    reward_dist_weight: float = 1.0
    reward_control_weight: float = 1.0

    @property
    def draws(self) -> tuple[int, int]:
        return 4 + 2 * _CANDIDATES + 4, 0

    @property
    def obs_names(self) -> tuple[str, ...]:
        positions, velocities = self.constants.qpos_names, self.constants.qvel_names
        angles = tuple(f"{function}({name})" for function in ("cos", "sin") for name in positions[:2])
        distance = tuple(f"fingertip - target.{axis}" for axis in "xyz"[: 7 - self.version])
        return angles + positions[2:] + velocities[:2] + distance

    def observe(self, fields: Fields) -> Array:
        qpos = fields["qpos"]
        xp, angles = qpos.__array_namespace__(), qpos[..., :2]
        distance = self._distance(fields)[..., : 7 - self.version]
        return xp.concatenate([xp.cos(angles), xp.sin(angles), qpos[..., 2:], fields["qvel"][..., :2], distance], -1)

    def _distance(self, fields: Fields) -> Array:
        return self._position(fields, "fingertip") - self._position(fields, "target")

    def measure(self, fields: Fields) -> Array:
        return self._distance(fields)

    def reward(self, before: Array, after: Array, fields: Fields, action: Array, healthy: Array) -> Array:
        distance = norm(before if self.version == 4 else after)
        return -distance * self.reward_dist_weight + -square_norm(action) * self.reward_control_weight

    def initial_state(self, uniform: Array, normal: Array) -> tuple[Array, Array]:
        """Joints in U(−0.1, 0.1) around the reference, the target uniform in a disc of 0.2 m."""
        xp = uniform.__array_namespace__()
        candidates = between(-0.2, 0.2, uniform[..., 4:-4]).reshape(*uniform.shape[:-1], -1, 2)
        target = first_acceptable(candidates, norm(candidates) < 0.2)
        joints = between(-0.1, 0.1, uniform[..., :2]) + like(self.constants.qpos[:2], uniform)
        return xp.concatenate([joints, target], axis=-1), self._velocities(uniform[..., -4:], still=2)


@dataclass(frozen=True, eq=False, kw_only=True)
class Pusher(Arm):
    """Push a cylinder to a goal: r = −w_d ‖object − goal‖ − w_c ‖a‖² − w_n ‖object − tip‖ (v5 only).

    Body positions are those of one physics step ago, after the step.

    Attributes:
        reward_near_weight: w_n, per metre.
        reward_dist_weight: w_d, per metre.
        reward_control_weight: w_c.
    """

    reward_near_weight: float
    reward_dist_weight: float
    reward_control_weight: float

    @property
    def draws(self) -> tuple[int, int]:
        return 2 * _CANDIDATES + 11, 0

    @property
    def obs_names(self) -> tuple[str, ...]:
        points = tuple(f"xpos.{body}.{axis}" for body in ("tips_arm", "object", "goal") for axis in "xyz")
        return self.constants.qpos_names[:7] + self.constants.qvel_names[:7] + points

    def observe(self, fields: Fields) -> Array:
        qpos = fields["qpos"]
        points = [self._position(fields, body) for body in ("tips_arm", "object", "goal")]
        return qpos.__array_namespace__().concatenate([qpos[..., :7], fields["qvel"][..., :7], *points], axis=-1)

    def reward(self, before: Array, after: Array, fields: Fields, action: Array, healthy: Array) -> Array:
        cylinder = self._position(fields, "object")
        near = -norm(cylinder - self._position(fields, "tips_arm")) * self.reward_near_weight
        distance = -norm(cylinder - self._position(fields, "goal")) * self.reward_dist_weight
        control = -square_norm(action) * self.reward_control_weight
        return distance + control + near

    def initial_state(self, uniform: Array, normal: Array) -> tuple[Array, Array]:
        """The arm at its reference, the cylinder uniform in [−0.3, 0] × [−0.2, 0.2] m but 0.17 m from the goal."""
        xp = uniform.__array_namespace__()
        points = uniform[..., :-11].reshape(*uniform.shape[:-1], -1, 2)
        candidates = xp.concatenate([between(-0.3, 0.0, points[..., :1]), between(-0.2, 0.2, points[..., 1:])], -1)
        cylinder = first_acceptable(candidates, norm(candidates) > 0.17)
        still = xp.zeros_like(uniform[..., :7])
        qpos = xp.concatenate([like(self.constants.qpos[:7], uniform) + still, cylinder, still[..., :2]], axis=-1)
        return qpos, self._velocities(uniform[..., -11:], still=4)
