"""Wrappers: pure functions from an `Environment` to an `Environment`.

A wrapper changes what passes through `reset` and `step` inside the compiled program. One that has a state of its own
wraps the environment's, and its `snapshot` and `restore`, so that resume stays as exact as it was.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from policy_gradients.environments.base import Array, Box, Environment, EnvState, Step, box
from policy_gradients.errors import UserError, suggest

ACTION_MAPS = ("clip", "tanh", "none")


def rescale_actions(env: Environment, action_map: str) -> Environment:
    """Lets a policy draw from all of ℝᴬ, whatever the bounds [low, high] of the simulator's actions.

    With mid = (low + high)/2 and half = (high − low)/2, a drawn action u reaches the simulator as

        "clip"   mid + half · clip(u, −1, 1)
        "tanh"   mid + half · tanh(u)
        "none"   clip(u, low, high)

    The drawn u, not the mapped action, is what the log-probability belongs to and what a `Transition` holds. A Box with
    an infinite bound has no middle, so there every map is "none": only the finite bounds are kept. Discrete actions
    pass unchanged. `spec.action_map` says which map is in force, `spec.control_bounds` keeps the simulator's Box, and
    `spec.action_space` becomes unbounded.

    Args:
        env: An environment whose actions have not been mapped yet.
        action_map: One of `ACTION_MAPS`.

    Raises:
        UserError: Unknown map, or `env` already maps its actions.
    """
    if action_map not in ACTION_MAPS:
        hint = suggest(str(action_map), ACTION_MAPS)
        raise UserError(f"action_map must be one of {', '.join(ACTION_MAPS)}, not {action_map!r}.{hint}")
    if env.spec.action_map != "none":
        raise UserError(f"{env.spec.id} already maps its actions ({env.spec.action_map}); rescale them once.")
    space = env.spec.action_space
    if not isinstance(space, Box):
        return env
    in_force = action_map if space.bounded else "none"
    to_control = _control_map(space, in_force)
    spec = replace(env.spec, action_space=box(-np.inf, np.inf, space.shape), action_map=in_force, control_bounds=space)
    return env._replace(spec=spec, step=lambda state, action: env.step(state, to_control(action)))


def _control_map(space: Box, action_map: str) -> Callable[[Array], Array]:
    low, high = (jnp.asarray(bound, jnp.float32)[None] for bound in (space.low, space.high))
    if action_map == "none":
        return lambda action: jnp.clip(action, low, high)
    mid, half = (low + high) / 2, (high - low) / 2
    squash = jnp.tanh if action_map == "tanh" else lambda u: jnp.clip(u, -1.0, 1.0)
    # The outer clip is for the last bit: mid + half may round to just beyond `high`.
    return lambda action: jnp.clip(mid + half * squash(action), low, high)


def clip_obs(env: Environment, bound: float) -> Environment:
    """Clips every observation, the last of an episode too, to [−bound, bound] (in the observation's own units).

    Raises:
        UserError: The bound is not positive, or the observations are pixels.
    """
    space = env.spec.obs_space
    if not bound > 0:
        raise UserError(f"obs_clip must be positive, not {bound}.")
    if space.dtype == np.uint8:
        raise UserError(f"{env.spec.id} observes pixels, which need no clipping; leave obs_clip out.")
    clip = lambda obs: jnp.clip(obs, -bound, bound)  # noqa: E731
    clipped = box(np.clip(space.low, -bound, bound), np.clip(space.high, -bound, bound), space.shape, space.dtype)
    wrapped = _map_obs(env, clip, clipped)
    return wrapped._replace(spec=replace(wrapped.spec, obs_clip=min(bound, env.spec.obs_clip or bound)))


def clip_rewards(env: Environment, low: float, high: float) -> Environment:
    """Clips every reward to [low, high]; episode returns are then sums of clipped rewards.

    Raises:
        UserError: `low` is not below `high`.
    """
    if not low < high:
        raise UserError(f"reward_clip must be an interval, but its lower end {low} is not below its upper end {high}.")

    def step(state: EnvState, action: Array) -> tuple[EnvState, Step]:
        state, out = env.step(state, action)
        return state, out._replace(reward=jnp.clip(out.reward, low, high))

    return env._replace(step=step)


def time_limit(env: Environment, max_episode_steps: int) -> Environment:
    """`env` itself, where its episodes already end within `max_episode_steps`; refused otherwise.

    An `Environment` resets itself, so only its own limit can end an episode: from outside, an episode could be called
    truncated, but the simulator would go on, and the next one would not begin at a first state. Limits are therefore
    given when an environment is made: `make(id, max_episode_steps=…)`, or `autoreset(…, max_episode_steps=…)` for one
    written in JAX.

    Raises:
        UserError: `env` has no limit, or a longer one.
    """
    own = env.spec.max_episode_steps
    if own is not None and own <= max_episode_steps:
        return env
    raise UserError(
        f"{env.spec.id} resets itself after {own or 'any number of'} steps, so a limit of {max_episode_steps} cannot "
        f"be put around it; give max_episode_steps when the environment is made."
    )


class FrameStackState(NamedTuple):
    """The environment's own state and the observation last returned, which holds the frames before the next."""

    env_state: EnvState
    frames: Array  # [N, *obs], the stack, oldest frame first


def frame_stack(env: Environment, k: int) -> Environment:
    """Observes the last k observations at once, oldest first, joined along the last axis.

    For pixels [H, W, C] that gives [H, W, k·C], for vectors [D] gives [k·D]. An episode begins with its first
    observation repeated; where one ends, `final_obs` still holds the frames of the old episode.

    Args:
        env: Any environment whose observations have at least one axis.
        k: Frames per observation; 1 returns `env` itself, whatever it observes.

    Raises:
        UserError: `k` is below 1, or an observation is a single number.
    """
    if k == 1:
        return env
    space = env.spec.obs_space
    if k < 1 or not space.shape:
        raise UserError(
            f"{env.spec.id}: frame_stack needs 1 or more frames of at least one axis, not {k} of shape {space.shape}."
        )
    width = space.shape[-1]
    repeat = lambda bound: np.concatenate([bound] * k, axis=-1)  # noqa: E731

    def fill(obs: Array) -> Array:
        return jnp.concatenate([obs] * k, axis=-1)

    def reset(key: Array) -> tuple[EnvState, Array]:
        env_state, obs = env.reset(key)
        frames = fill(obs)
        return FrameStackState(env_state, frames), frames

    def step(state: EnvState, action: Array) -> tuple[EnvState, Step]:
        env_state, out = env.step(state.env_state, action)
        pushed = jnp.concatenate([state.frames[..., width:], out.final_obs], axis=-1)
        # A dummy row brings the first observation of an episode that the row before it could not show yet.
        begins = _rows(out.terminated | out.truncated | ~out.valid, pushed)
        obs = jnp.where(begins, fill(out.obs), pushed)
        final_obs = jnp.where(_rows(out.valid, pushed), pushed, obs)
        return FrameStackState(env_state, obs), out._replace(obs=obs, final_obs=final_obs)

    def snapshot(state: EnvState) -> dict[str, np.ndarray]:
        inner = {f"stacked.{name}": array for name, array in env.snapshot(state.env_state).items()}
        return {"frames": np.asarray(state.frames), **inner}

    def restore(arrays: Mapping[str, np.ndarray], state: EnvState) -> EnvState:
        inner = {name.removeprefix("stacked."): array for name, array in arrays.items() if name != "frames"}
        return FrameStackState(env.restore(inner, state.env_state), jnp.asarray(arrays["frames"], space.dtype))

    joined = Box(repeat(space.low), repeat(space.high), space.dtype)
    spec = replace(env.spec, obs_space=joined, frames=k * env.spec.frames, obs_names=())
    return Environment(spec, reset, step, snapshot, restore, env.close, lambda state: env.metrics(state.env_state))


def channels_last(env: Environment) -> Environment:
    """Images as [H, W, C], the order of the CNN; everything else passes unchanged.

    A grey image [H, W] gets one channel. An image whose first axis is the shortest, [C, H, W], is transposed, inside
    the compiled program: on the CPU that takes a fortieth of NumPy's time.
    """
    space = env.spec.obs_space
    reorder = image_order(space.shape, space.dtype)
    if reorder is None:
        return env
    return _map_obs(env, reorder, Box(reorder(space.low), reorder(space.high), space.dtype))


def image_order(shape: tuple[int, ...], dtype: Any) -> Callable[[Any], Any] | None:
    """The function from observations [*batch, *shape], of NumPy or JAX, to images [*batch, H, W, C]; None for none."""
    if dtype != np.uint8 or len(shape) not in (2, 3):
        return None
    if len(shape) == 2:
        return lambda obs: obs[..., None]
    if shape[0] >= min(shape[1:]):
        return None
    return lambda obs: obs.swapaxes(-3, -2).swapaxes(-2, -1)


def _map_obs(env: Environment, function: Callable[[Array], Array], obs_space: Box) -> Environment:
    """`env` with a function of each batch of observations applied in `reset` and `step`."""

    def reset(key: Array) -> tuple[EnvState, Array]:
        state, obs = env.reset(key)
        return state, function(obs)

    def step(state: EnvState, action: Array) -> tuple[EnvState, Step]:
        state, out = env.step(state, action)
        return state, out._replace(obs=function(out.obs), final_obs=function(out.final_obs))

    return env._replace(spec=replace(env.spec, obs_space=obs_space), reset=reset, step=step)


def _rows(flags: Array, like: Array) -> Array:
    """Flags [N] with the axes of `like` [N, ...]."""
    return flags.reshape(flags.shape + (1,) * (like.ndim - 1))
