"""What is known of a MuJoCo task before the first step, whichever engine runs it."""

import importlib.metadata

import numpy as np

from policy_gradients.environments.base import EnvironmentSpec, box
from policy_gradients.environments.mujoco.models import actuator_names, import_mujoco
from policy_gradients.environments.mujoco.tasks import Task


def specification(
    task: Task, engine: str, num_envs: int, max_episode_steps: int, *, on_host: bool, staggered: bool, **versions: str
) -> EnvironmentSpec:
    """The specification of a task in `num_envs` worlds; `versions` are those of the engine's own packages."""
    names, (low, high) = task.rules.obs_names, task.model.actuator_ctrlrange.T
    control = box(low, high)
    shared = {"mujoco": import_mujoco().__version__, "gymnasium": importlib.metadata.version("gymnasium")}
    return EnvironmentSpec(
        id=task.id,
        engine=engine,
        num_envs=num_envs,
        obs_space=box(-np.inf, np.inf, (len(names),)),
        action_space=control,
        max_episode_steps=max_episode_steps,
        on_host=on_host,
        control_bounds=control,
        staggered=staggered,
        dt=task.rules.constants.dt,
        obs_names=names,
        action_names=actuator_names(task.model),
        versions={**shared, **versions},
    )
