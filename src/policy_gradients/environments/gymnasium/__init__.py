"""Gymnasium environments, stepped in worker processes.

The workers import this package, so nothing here may import JAX before `make_gymnasium` is called: each worker would pay
1.6 s and 200 MB for it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policy_gradients.environments.base import Environment


def make_gymnasium(
    id_or_callable: str | Callable[..., Any],
    num_envs: int,
    num_workers: int | None = None,
    max_episode_steps: int | None = None,
    **kwargs: Any,
) -> "Environment":
    """Any Gymnasium environment with Box observations and Box or Discrete actions, as `num_envs` copies.

    The copies are split into contiguous chunks, one per worker process, so that the simulation runs on all cores while
    an environment that crashes takes only its worker with it. Observations, actions and flags pass through shared
    memory. A copy that ends is reset within the same step. Observations arrive as float32 (uint8 for images, with the
    channels last).

    A simulator's state cannot be read, so `spec.exact_resume` is False: `restore` starts new episodes, from seeds
    derived from the saved seed and step count, and the first step after it is a dummy (`valid` is False everywhere)
    that brings their first observations.

    Args:
        id_or_callable: A registered id, "my_package:MyEnv-v0" (the module is imported in the workers), or a callable
            that returns a `gymnasium.Env`. A callable must be one that a new process can import: a module-level
            function or class, or a `functools.partial` of one. If it stands in the script itself, the script's own
            work must be under `if __name__ == "__main__":`.
        num_envs: N, copies stepped together.
        num_workers: Processes; None for one per available core (at most N), 0 for none: the environments then run
            inside this process, which saves the round trip of some 20 µs a step, but one that crashes ends it.
        max_episode_steps: Environment steps after which an episode is truncated; None for the registered limit.
        **kwargs: For the environment's constructor.

    Raises:
        UserError: An unknown id, an unsupported space, a callable that no other process can import, or bad numbers.
        EnvironmentFailure: The environment's constructor raised or its process died.
    """
    from policy_gradients.environments.gymnasium.simulator import GymnasiumSimulator
    from policy_gradients.environments.host import host_environment
    from policy_gradients.environments.wrappers import channels_last

    simulator = GymnasiumSimulator(id_or_callable, num_envs, num_workers, max_episode_steps, kwargs)
    return channels_last(host_environment(simulator))
