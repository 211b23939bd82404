"""Brax (Freeman et al. 2021, arXiv 2106.13281): Gymnasium's MuJoCo tasks with other physics and other rewards.

A score here belongs into no column of `HalfCheetah-v4`'s. `done` of the bare environment means the end of the decision
process; the limit of 1,000 steps is that which Brax's own `create` puts around it.
"""

from collections.abc import Mapping
from typing import Any

import jax

from policy_gradients.environments.base import box
from policy_gradients.environments.suites.task import Physics, SuiteTask, construct, import_suite

PACKAGE = "brax"
_EPISODE_LENGTH = 1000  # brax.envs.create's default
_NO_TASKS = ("fast",)  # a stub without physics, for Brax's own tests


def ids() -> frozenset[str]:
    """The ids that the installed Brax makes."""
    return frozenset(import_suite("brax", "brax.envs")._envs).difference(_NO_TASKS)


def load(id: str, options: Mapping[str, Any], max_episode_steps: int | None) -> SuiteTask:
    """A Brax environment.

    Args:
        id: One of `ids()`.
        options: Arguments of its constructor, such as `backend` ("generalized", "spring", "positional" or "mjx").
        max_episode_steps: Not used: Brax's environments know of no limit.
    """
    envs = import_suite("brax", "brax.envs")
    env = construct("brax", id, lambda: envs.get_environment(id, **options), options)

    def reset(key: jax.Array) -> tuple[Any, Any]:
        state = env.reset(key)
        return state, state.obs

    def step(key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, ...]:
        state = env.step(state, action)
        return state, state.obs, state.reward, state.done > 0, False

    packages = ("brax", "mujoco", "mujoco-mjx")
    physics = Physics(env.sys.mj_model, lambda state: state.pipeline_state.q)
    return SuiteTask(reset, step, box(-1, 1, (env.action_size,)), _EPISODE_LENGTH, float(env.dt), packages, physics)
