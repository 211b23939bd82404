"""gymnax (Lange 2022): classic control, MinAtar, bsuite and small worlds.

`step_env` and `reset_env` are used, so gymnax never resets by itself. Since gymnax 1.0 the flag that `step_env` returns
means the end of the decision process alone; before, a time limit set it too, and the flag of the same step under an
endless limit tells the two apart.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from policy_gradients.environments.base import Discrete, Space, box
from policy_gradients.environments.suites.task import SuiteTask, construct, import_suite
from policy_gradients.errors import UserError

PACKAGE = "gymnax"
_LIMIT = "max_steps_in_episode"
_ENDLESS = 2**31 - 1


def ids() -> frozenset[str]:
    """The ids that the installed gymnax makes."""
    return frozenset(import_suite("gymnax", "gymnax.registration").registered_envs)


def load(id: str, options: Mapping[str, Any], max_episode_steps: int | None) -> SuiteTask:
    """A gymnax environment.

    Args:
        id: One of `ids()`.
        options: Fields of the environment's parameters (`max_torque` of Pendulum-v1), or arguments of its constructor.
        max_episode_steps: The limit in force, which some environments observe; None for the environment's own.
    """
    gymnax = import_suite("gymnax", "gymnax")
    _, defaults = construct("gymnax", id, lambda: gymnax.make(id), {})
    fields = {field.name for field in dataclasses.fields(defaults)}
    arguments = {name: value for name, value in options.items() if name not in fields}
    env, defaults = construct("gymnax", id, lambda: gymnax.make(id, **arguments), arguments)
    changes = {name: value for name, value in options.items() if name in fields}
    if max_episode_steps is not None and _LIMIT in fields:
        changes[_LIMIT] = max_episode_steps
    params = defaults.replace(**changes)
    limit = getattr(params, _LIMIT, None)

    def reset(key: jax.Array) -> tuple[Any, Any]:
        obs, state = env.reset_env(key, params)
        return state, obs

    def step(key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, ...]:
        obs, after, reward, terminated, _ = env.step_env(key, state, action, params)
        if limit is not None and not hasattr(env, "is_truncated"):
            terminated = env.step_env(key, state, action, params.replace(**{_LIMIT: _ENDLESS}))[3]
        return after, obs, reward, terminated, False

    space = _space(id, env.action_space(params))
    return SuiteTask(reset, step, space, None if limit is None else int(limit), None, ("gymnax",))


def _space(id: str, space: Any) -> Space:
    if hasattr(space, "n"):
        return Discrete(int(space.n))
    if hasattr(space, "low") and hasattr(space, "high"):
        return box(space.low, space.high, tuple(space.shape))
    raise UserError(f"gymnax:{id} takes actions from {type(space).__name__}; only Discrete and Box are supported.")
