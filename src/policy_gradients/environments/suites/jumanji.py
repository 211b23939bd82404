"""Jumanji (Bonnet et al. 2024, arXiv 2306.09884): puzzles, packing and routing.

The last step of an episode has a discount: 0 where the decision process ended, more where it was cut short. Most of the
suite's own time limits say 0, and so they end the process here, too. Observations in parts become one vector; the mask
of legal actions is part of it, and an action that it forbids does what Jumanji does with it.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from policy_gradients.environments.base import Discrete, Space, box
from policy_gradients.environments.suites.task import SuiteTask, construct, import_suite
from policy_gradients.errors import UserError

PACKAGE = "jumanji"


def ids() -> frozenset[str]:
    """The ids that the installed Jumanji makes."""
    return frozenset(import_suite("jumanji", "jumanji").registered_environments())


def load(id: str, options: Mapping[str, Any], max_episode_steps: int | None) -> SuiteTask:
    """A Jumanji environment.

    Args:
        id: One of `ids()`.
        options: Arguments of its constructor, such as `time_limit`.
        max_episode_steps: Not used: the limit of a Jumanji environment is an option of its own.
    """
    jumanji = import_suite("jumanji", "jumanji")
    env = construct("jumanji", id, lambda: jumanji.make(id, **options), options)
    space = _space(id, env.action_spec)

    def reset(key: jax.Array) -> tuple[Any, Any]:
        state, first = env.reset(key)
        return state, first.observation

    def step(key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, ...]:
        state, out = env.step(state, action)
        ended, going_on = out.last(), jnp.asarray(out.discount) > 0
        return state, out.observation, out.reward, ended & ~going_on, ended & going_on

    return SuiteTask(reset, step, space, None, None, ("jumanji",))


def _space(id: str, spec: Any) -> Space:
    count = getattr(spec, "num_values", None)
    if count is not None and np.ndim(count) == 0:
        return Discrete(int(count))
    if count is None and hasattr(spec, "minimum") and len(spec.shape) == 1 and jnp.issubdtype(spec.dtype, jnp.floating):
        return box(spec.minimum, spec.maximum, tuple(spec.shape))
    kind = f"{np.size(count)} discrete choices at once" if count is not None else f"an array of shape {spec.shape}"
    raise UserError(
        f"jumanji:{id} takes {kind} as an action; only one discrete choice or a vector of bounded numbers is supported."
    )
