"""Suites of environments written in JAX by others, as `suite:id`, each installed by an extra of the same name.

Each module here knows one suite: its ids, and how one of its environments becomes a `SuiteTask`. What they share is in
`task.py`; time limits, resets and final observations are `autoreset`'s, never the suites' own.
"""

import importlib
import importlib.util
from typing import Any

from policy_gradients.environments.base import Environment
from policy_gradients.environments.suites.task import SuiteTask, suite_environment

SUITES = ("gymnax", "brax", "playground", "jumanji")
"""Prefixes of ids, and names of the extras and of the modules here."""


def make_suite(
    suite: str, id: str, num_envs: int, max_episode_steps: int | None = None, stagger: bool = False, **options: Any
) -> Environment:
    """An environment of a suite as `num_envs` copies inside the compiled program.

    Args:
        suite: One of `SUITES`.
        id: One of `suite_ids(suite)`.
        num_envs: N, copies stepped together.
        max_episode_steps: Environment steps after which an episode is truncated; None for the suite's own limit.
        stagger: Cut first episodes short at different times (`base.first_elapsed`).
        **options: The suite's own, as its module says.

    Raises:
        UserError: The suite is not installed, or the environment does not take the options or is of a kind that is not
            supported.
        EnvironmentFailure: The suite cannot make or trace the environment.
    """
    task = load_task(suite, id, max_episode_steps, **options)
    return suite_environment(suite, id, task, num_envs, max_episode_steps, stagger)


def load_task(suite: str, id: str, max_episode_steps: int | None = None, **options: Any) -> SuiteTask:
    """One raw copy of an environment, as for `make_suite`.

    Raises:
        UserError, EnvironmentFailure: As `make_suite`.
    """
    return _module(suite).load(id, options, max_episode_steps)


def suite_ids(suite: str) -> frozenset[str]:
    """The ids that a suite knows; imports it, which takes seconds.

    Raises:
        UserError: The suite is not installed.
    """
    return _module(suite).ids()


def installed(suite: str) -> bool:
    """True where a suite can be imported, without importing it."""
    return importlib.util.find_spec(_module(suite).PACKAGE) is not None


def _module(suite: str) -> Any:
    return importlib.import_module(f"{__name__}.{suite}")
