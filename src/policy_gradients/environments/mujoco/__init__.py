"""Gymnasium's MuJoCo tasks, v4 and v5, on MuJoCo's C engine in threads.

The tasks equal Gymnasium's to the last bit before observations and rewards are rounded to float32. Where they differ:
an unstable simulation raises instead of being reset in mid-episode, `Pusher-v4` is refused (Gymnasium refuses it too
on this MuJoCo), and options of rendering are arguments of `render_frames`. Actions arrive as float32; Gymnasium given
the same float32 actions computes the same numbers.
"""

from typing import TYPE_CHECKING, Any

from policy_gradients.environments.mujoco.rendering import render_frames
from policy_gradients.environments.mujoco.tasks import DEFINITIONS, load_task

if TYPE_CHECKING:
    from policy_gradients.environments.base import Environment

__all__ = ["MUJOCO_IDS", "make_mujoco", "render_frames"]

MUJOCO_IDS: tuple[str, ...] = tuple(DEFINITIONS)


def make_mujoco(
    id: str,
    num_envs: int,
    num_threads: int = 0,
    max_episode_steps: int | None = None,
    stagger: bool = False,
    **options: Any,
) -> "Environment":
    """A MuJoCo task as an `Environment` of `num_envs` worlds that reset themselves.

    Args:
        id: One of `MUJOCO_IDS`, such as "HalfCheetah-v4".
        num_envs: N.
        num_threads: Threads to step worlds in; 0 for one per processor.
        max_episode_steps: Environment steps after which an episode is truncated; None for the task's own.
        stagger: Cut first episodes short at different times (`base.first_elapsed`).
        **options: Gymnasium's keyword arguments that change the task, by Gymnasium's names and with its defaults:
            `forward_reward_weight`, `ctrl_cost_weight`, `terminate_when_unhealthy`, `reset_noise_scale`, `xml_file` …

    Raises:
        UserError: An id or option is unknown, or a value is of the wrong kind.
    """
    task = load_task(id, **options)

    from policy_gradients.environments.host import host_environment
    from policy_gradients.environments.mujoco.batch import MujocoSimulator

    return host_environment(MujocoSimulator(task, num_envs, num_threads, max_episode_steps, stagger))
