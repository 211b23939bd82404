"""Gymnasium's classic control tasks in JAX: CartPole, Acrobot, Pendulum and both MountainCars.

Dynamics, observations, rewards, ends, first states and time limits are those of Gymnasium 1.4; the arithmetic is
float32 where Gymnasium's is mostly float64. A raw state is an array with the elements and the order of Gymnasium's own
`unwrapped.state`, so a frame is drawn by assigning it there.

References:
    Barto, Sutton, Anderson (1983), Neuronlike adaptive elements (CartPole); Sutton (1996), Generalization in
    reinforcement learning (Acrobot); Moore (1990), Efficient memory-based learning for robot control (MountainCar).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from policy_gradients.environments.autoreset import RawReset, RawStep, autoreset
from policy_gradients.environments.base import Array, Box, Discrete, Environment, EnvironmentSpec, Space, box
from policy_gradients.errors import UserError, suggest


class Task(NamedTuple):
    """A classic task: its spaces, limits and raw pair, and the options that Gymnasium gives it.

    Attributes:
        reset: `(key) -> (state, obs)`.
        step: `(key, state, action, **options) -> (state, obs, reward, terminated)`.
        obs_space, action_space: As Gymnasium states them.
        max_episode_steps: Gymnasium's time limit.
        dt: Seconds per step, or None where the task has no clock.
        options: Gymnasium's keyword arguments with their defaults.
        obs_names, action_names: Names of the coordinates.
    """

    reset: RawReset
    step: Callable[..., tuple[Array, Array, Array, Array]]
    obs_space: Box
    action_space: Space
    max_episode_steps: int
    dt: float | None
    options: Mapping[str, Any]
    obs_names: tuple[str, ...]
    action_names: tuple[str, ...]


def make_classic(
    id: str, num_envs: int, max_episode_steps: int | None = None, stagger: bool = False, **options: Any
) -> Environment:
    """A classic control task as `num_envs` copies inside the compiled program.

    Args:
        id: One of `CLASSIC_IDS`.
        num_envs: N, copies stepped together.
        max_episode_steps: Environment steps after which an episode is truncated; None for Gymnasium's limit.
        stagger: Cut first episodes short at different times (`base.first_elapsed`).
        **options: Gymnasium's own: `sutton_barto_reward` (CartPole: 0 per step and −1 at the fall), `g` (Pendulum:
            gravity, m/s²), `goal_velocity` (both MountainCars: least velocity at the flag, position per step).

    Raises:
        UserError: Unknown id or option, or an option of the wrong type.
    """
    if id not in TASKS:
        raise UserError(
            f"{id!r} is no classic task: expected one of {', '.join(CLASSIC_IDS)}.{suggest(id, CLASSIC_IDS)}"
        )
    task = TASKS[id]
    options = _checked_options(id, task.options, options)
    limit = task.max_episode_steps if max_episode_steps is None else max_episode_steps
    spec = EnvironmentSpec(
        id=id,
        engine="jax",
        num_envs=num_envs,
        obs_space=task.obs_space,
        action_space=task.action_space,
        control_bounds=task.action_space if isinstance(task.action_space, Box) else None,
        dt=task.dt,
        obs_names=task.obs_names,
        action_names=task.action_names,
        versions={"jax": jax.__version__},
    )
    step: RawStep = lambda key, state, action: task.step(key, state, action, **options)  # noqa: E731
    return autoreset(spec, task.reset, step, limit, stagger=stagger)


def _checked_options(id: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in given.items():
        if name not in defaults:
            known = ", ".join(defaults) or "none"
            raise UserError(f"{id} has no option {name!r} (it has: {known}).{suggest(name, defaults)}")
        wants_bool = isinstance(defaults[name], bool)
        if wants_bool and not isinstance(value, bool):
            raise UserError(f"{id}: {name} must be true or false, not {value!r}.")
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not wants_bool and not number:
            raise UserError(f"{id}: {name} must be a finite number, not {value!r}.")
    return {**defaults, **given}


def _uniform_reset(low: tuple[float, ...], high: tuple[float, ...], observe: Callable[[Array], Array]) -> RawReset:
    def reset(key: Array) -> tuple[Array, Array]:
        state = jax.random.uniform(key, (len(low),), jnp.float32, jnp.array(low), jnp.array(high))
        return state, observe(state)

    return reset


def _same(state: Array) -> Array:
    return state


def _wrap(angle: Array) -> Array:
    """The same angle in [−π, π]."""
    return angle - 2 * jnp.pi * jnp.round(angle / (2 * jnp.pi))


# CartPole: state (x, ẋ, θ, θ̇) in metres and radians, θ = 0 upright. Pole 0.1 kg, cart 1 kg, half the pole 0.5 m.
_X_LIMIT = 2.4
_THETA_LIMIT = 12 * 2 * math.pi / 360


def _cartpole_step(key: Array, state: Array, action: Array, sutton_barto_reward: bool) -> Any:
    x, x_dot, theta, theta_dot = state
    cart, pole, half_length, gravity, dt = 1.0, 0.1, 0.5, 9.8, 0.02
    total = cart + pole
    force = jnp.where(action == 1, 10.0, -10.0)
    sin, cos = jnp.sin(theta), jnp.cos(theta)
    pushed = (force + pole * half_length * theta_dot**2 * sin) / total
    theta_acc = (gravity * sin - cos * pushed) / (half_length * (4 / 3 - pole * cos**2 / total))
    x_acc = pushed - pole * half_length * theta_acc * cos / total
    state = jnp.stack([x + dt * x_dot, x_dot + dt * x_acc, theta + dt * theta_dot, theta_dot + dt * theta_acc])
    terminated = (jnp.abs(state[0]) > _X_LIMIT) | (jnp.abs(state[2]) > _THETA_LIMIT)
    reward = jnp.where(terminated, -1.0, 0.0) if sutton_barto_reward else jnp.float32(1)
    return state, state, reward, terminated


def _cartpole(max_episode_steps: int) -> Task:
    bound = (2 * _X_LIMIT, math.inf, 2 * _THETA_LIMIT, math.inf)
    return Task(
        reset=_uniform_reset((-0.05,) * 4, (0.05,) * 4, _same),
        step=_cartpole_step,
        obs_space=box([-b for b in bound], bound),
        action_space=Discrete(2),
        max_episode_steps=max_episode_steps,
        dt=0.02,
        options={"sutton_barto_reward": False},
        obs_names=("x", "x_dot", "theta", "theta_dot"),
        action_names=("left", "right"),
    )


# Acrobot: state (θ₁, θ₂, θ̇₁, θ̇₂) in radians, θ₁ = 0 hanging down, θ₂ relative to the first link. Both links have mass
# 1 kg, length 1 m, their centre of mass in the middle and a moment of inertia of 1 kg m².
_ACROBOT_MAX_SPEED = (4 * math.pi, 9 * math.pi)


def _acrobot_observe(state: Array) -> Array:
    theta1, theta2, speed1, speed2 = state
    return jnp.stack([jnp.cos(theta1), jnp.sin(theta1), jnp.cos(theta2), jnp.sin(theta2), speed1, speed2])


def _acrobot_derivative(state: Array, torque: Array) -> Array:
    """d state / dt by the equations of the book, which hold terms that the paper of 1996 left out."""
    theta1, theta2, speed1, speed2 = state
    gravity, centre, inertia = 9.8, 0.5, 1.0
    sin2, cos2 = jnp.sin(theta2), jnp.cos(theta2)
    d1 = centre**2 + (1 + centre**2 + 2 * centre * cos2) + 2 * inertia
    d2 = centre**2 + centre * cos2 + inertia
    phi2 = centre * gravity * jnp.sin(theta1 + theta2)  # cos(x − π/2) = sin x
    phi1 = -centre * (speed2**2 + 2 * speed2 * speed1) * sin2 + (centre + 1) * gravity * jnp.sin(theta1) + phi2
    acc2 = (torque + d2 / d1 * phi1 - centre * speed1**2 * sin2 - phi2) / (centre**2 + inertia - d2**2 / d1)
    acc1 = -(d2 * acc2 + phi1) / d1
    return jnp.stack([speed1, speed2, acc1, acc2])


def _acrobot_step(key: Array, state: Array, action: Array) -> Any:
    torque, dt = action.astype(jnp.float32) - 1, 0.2
    k1 = _acrobot_derivative(state, torque)
    k2 = _acrobot_derivative(state + dt / 2 * k1, torque)
    k3 = _acrobot_derivative(state + dt / 2 * k2, torque)
    k4 = _acrobot_derivative(state + dt * k3, torque)
    state = state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)  # Runge–Kutta of fourth order
    bound = jnp.array(_ACROBOT_MAX_SPEED, jnp.float32)
    state = jnp.concatenate([_wrap(state[:2]), jnp.clip(state[2:], -bound, bound)])
    terminated = -jnp.cos(state[0]) - jnp.cos(state[1] + state[0]) > 1  # the tip is one link above the pivot
    return state, _acrobot_observe(state), jnp.where(terminated, 0.0, -1.0), terminated


_ACROBOT_BOUND = (1, 1, 1, 1, *_ACROBOT_MAX_SPEED)
_ACROBOT = Task(
    reset=_uniform_reset((-0.1,) * 4, (0.1,) * 4, _acrobot_observe),
    step=_acrobot_step,
    obs_space=box([-b for b in _ACROBOT_BOUND], _ACROBOT_BOUND),
    action_space=Discrete(3),
    max_episode_steps=500,
    dt=0.2,
    options={},
    obs_names=("cos_theta1", "sin_theta1", "cos_theta2", "sin_theta2", "theta1_dot", "theta2_dot"),
    action_names=("negative", "none", "positive"),
)


# Pendulum: state (θ, θ̇) in radians, θ = 0 upright; a rod of 1 kg and 1 m.
def _pendulum_observe(state: Array) -> Array:
    return jnp.stack([jnp.cos(state[0]), jnp.sin(state[0]), state[1]])


def _pendulum_step(key: Array, state: Array, action: Array, g: float) -> Any:
    torque, dt = jnp.clip(action[0], -2.0, 2.0), 0.05
    # Gymnasium lets θ grow and wraps it only in the reward; float32 would lose digits as it grows.
    theta = _wrap(state[0])
    reward = -(theta**2 + 0.1 * state[1] ** 2 + 0.001 * torque**2)
    speed = jnp.clip(state[1] + (3 * g / 2 * jnp.sin(theta) + 3 * torque) * dt, -8.0, 8.0)
    state = jnp.stack([theta + speed * dt, speed])
    return state, _pendulum_observe(state), reward, jnp.bool_(False)


_PENDULUM = Task(
    reset=_uniform_reset((-math.pi, -1.0), (math.pi, 1.0), _pendulum_observe),
    step=_pendulum_step,
    obs_space=box([-1, -1, -8], [1, 1, 8]),
    action_space=box(-2, 2, (1,)),
    max_episode_steps=200,
    dt=0.05,
    options={"g": 10.0},
    obs_names=("cos_theta", "sin_theta", "theta_dot"),
    action_names=("torque",),
)


# Both MountainCars: state (position, velocity), velocity in position per step; the wall is on the left, the flag right.
def _roll(state: Array, push: Array) -> Array:
    position, velocity = state
    velocity = jnp.clip(velocity + push - 0.0025 * jnp.cos(3 * position), -0.07, 0.07)
    position = jnp.clip(position + velocity, -1.2, 0.6)
    at_wall = (position <= -1.2) & (velocity < 0)
    return jnp.stack([position, jnp.where(at_wall, 0.0, velocity)])


def _mountain_car_step(key: Array, state: Array, action: Array, goal_velocity: float) -> Any:
    state = _roll(state, 0.001 * (action.astype(jnp.float32) - 1))
    terminated = (state[0] >= 0.5) & (state[1] >= goal_velocity)
    return state, state, jnp.float32(-1), terminated


def _mountain_car_continuous_step(key: Array, state: Array, action: Array, goal_velocity: float) -> Any:
    state = _roll(state, 0.0015 * jnp.clip(action[0], -1.0, 1.0))
    terminated = (state[0] >= 0.45) & (state[1] >= goal_velocity)
    reward = jnp.where(terminated, 100.0, 0.0) - 0.1 * action[0] ** 2  # Gymnasium charges the action before clipping
    return state, state, reward, terminated


_MOUNTAIN_CAR = Task(
    reset=_uniform_reset((-0.6, 0.0), (-0.4, 0.0), _same),
    step=_mountain_car_step,
    obs_space=box([-1.2, -0.07], [0.6, 0.07]),
    action_space=Discrete(3),
    max_episode_steps=200,
    dt=None,
    options={"goal_velocity": 0.0},
    obs_names=("position", "velocity"),
    action_names=("left", "none", "right"),
)

TASKS: Mapping[str, Task] = {
    "CartPole-v0": _cartpole(200),
    "CartPole-v1": _cartpole(500),
    "Acrobot-v1": _ACROBOT,
    "Pendulum-v1": _PENDULUM,
    "MountainCar-v0": _MOUNTAIN_CAR,
    "MountainCarContinuous-v0": _MOUNTAIN_CAR._replace(
        step=_mountain_car_continuous_step, action_space=box(-1, 1, (1,)), max_episode_steps=999, action_names=("push",)
    ),
}
"""Every classic task by its id."""

CLASSIC_IDS = tuple(TASKS)
