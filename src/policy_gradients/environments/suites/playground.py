"""MuJoCo Playground (Zakka et al. 2025, arXiv 2502.08844): DeepMind Control's tasks and robots on MJX.

`done` of the bare environment means the end of the decision process, or NaN; a copy that met NaN is reset and counted,
as everywhere. The limit is the `episode_length` of the task's configuration. Of an observation in parts the policy sees
"state"; "privileged_state" is for critics, and the value function here sees what the policy sees.
"""

from collections.abc import Mapping
from typing import Any

import jax

from policy_gradients import backend
from policy_gradients.environments.base import box
from policy_gradients.environments.suites.task import Physics, SuiteTask, construct, import_suite
from policy_gradients.errors import UserError, suggest

PACKAGE = "mujoco_playground"
_SEEN = "state"


def ids() -> frozenset[str]:
    """The ids that the installed Playground makes."""
    return frozenset(_registry().ALL_ENVS)


def load(id: str, options: Mapping[str, Any], max_episode_steps: int | None) -> SuiteTask:
    """A Playground environment.

    Args:
        id: One of `ids()`.
        options: Changes of the task's configuration, nested or by dotted name (`reward_config.scales.energy`). `impl`
            is "jax" where programs run on the CPU, unless it is given.
        max_episode_steps: Not used: Playground's environments know of no limit.
    """
    registry = _registry()
    if id not in registry.dm_control_suite.ALL_ENVS:
        _require_robots(id, registry)
    known = _flat(construct("playground", id, lambda: registry.get_default_config(id), {}).to_dict())
    changes = _flat(options)
    for name in changes:
        if name not in known:
            raise UserError(
                f"playground:{id} has no option {name!r} (it has: {', '.join(known)}).{suggest(name, known)}"
            )
    if "impl" in known and backend.platform() == "cpu":
        changes = {"impl": "jax", **changes}  # Warp's own kernels, the default, are for GPUs
    env = construct("playground", id, lambda: registry.load(id, config_overrides=changes), options)

    def reset(key: jax.Array) -> tuple[Any, Any]:
        state = env.reset(key)
        return state, _seen(id, state.obs)

    def step(key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, ...]:
        state = env.step(state, action)
        return state, _seen(id, state.obs), state.reward, state.done > 0, False

    limit = changes.get("episode_length", known.get("episode_length"))
    packages = ("playground", "mujoco", "mujoco-mjx")
    physics = Physics(env.mj_model, lambda state: state.data.qpos)
    return SuiteTask(reset, step, box(-1, 1, (env.action_size,)), limit, float(env.dt), packages, physics)


def _registry() -> Any:
    return import_suite("playground", "mujoco_playground").registry


def _require_robots(id: str, registry: Any) -> None:
    """Refuses a robot whose model is not there: Playground would clone a repository without asking."""
    if not registry.mjx_env.MENAGERIE_PATH.exists():
        raise UserError(
            f"playground:{id} needs robot models that Playground downloads; fetch them once with: "
            'python -c "from mujoco_playground._src import mjx_env; mjx_env.ensure_menagerie_exists()"'
        )


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _seen(id: str, obs: Any) -> Any:
    """What the policy sees of an observation."""
    if not isinstance(obs, Mapping):
        return obs
    if _SEEN not in obs:
        raise UserError(f"playground:{id} shows {', '.join(obs)} and no {_SEEN!r}, which is what a policy sees here.")
    return obs[_SEEN]
