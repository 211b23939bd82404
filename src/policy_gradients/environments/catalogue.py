"""Which environments there are, and what there is to know of one: the list behind `policy-gradients envs`."""

from collections.abc import Callable
from typing import Any, NamedTuple

from policy_gradients.environments.base import Box, EnvironmentSpec
from policy_gradients.environments.registry import construct, installed_engines, known_ids, resolve
from policy_gradients.environments.suites import SUITES, installed, suite_ids


class EnvironmentInfo(NamedTuple):
    """One line of the list of environments; "" and None where only starting the simulator would tell."""

    id: str
    engine: str
    obs: str  # "Box(17)", "uint8 Box(84, 84, 4)"
    actions: str  # "Box(6) in [-1, 1]", "Discrete(2)"
    limit: int | None  # environment steps after which an episode is truncated


def environments(pattern: str = "") -> list[EnvironmentInfo]:
    """Every known environment whose id contains `pattern` (in any case), under the engine that its id chooses.

    Suites that are installed are imported, which takes seconds each. Spaces are told for our own tasks; for the others
    `describe` starts the simulator to find out.
    """
    listed: dict[str, EnvironmentInfo] = {}
    for engine in installed_engines():
        for name in sorted(known_ids(engine)):
            if pattern.lower() in name.lower() and name not in listed:
                listed[name] = _listed(engine, name)
    for suite in filter(installed, SUITES):
        names = (f"{suite}:{name}" for name in sorted(suite_ids(suite)))
        listed |= {
            name: EnvironmentInfo(name, suite, "", "", None) for name in names if pattern.lower() in name.lower()
        }
    return list(listed.values())


def describe(id: str | Callable[..., Any], **kwargs: Any) -> EnvironmentSpec:
    """What there is to know of an environment; starts one copy and closes it.

    Raises:
        UserError, EnvironmentFailure: As `make`.
    """
    env = construct(*resolve(id), 1, 1, None, kwargs)
    env.close()
    return env.spec


def _listed(engine: str, name: str) -> EnvironmentInfo:
    if engine == "gymnasium":
        return EnvironmentInfo(name, engine, "", "", known_ids(engine)[name].max_episode_steps)  # type: ignore[index]
    if engine == "envpool":
        return EnvironmentInfo(name, engine, "", "", None)
    env = construct(engine, name, 1, 1, None, {})
    env.close()
    return environment_info(env.spec)


def environment_info(spec: EnvironmentSpec) -> EnvironmentInfo:
    """A specification as one line of the list."""
    space, actions = spec.obs_space, spec.action_space
    kind = "" if space.dtype.kind == "f" else f"{space.dtype} "
    if isinstance(actions, Box):
        low, high = actions.low.min(), actions.high.max()
        acts = f"Box({_dims(actions)}) in [{low:g}, {high:g}]"
    else:
        acts = f"Discrete({actions.n})"
    return EnvironmentInfo(spec.id, spec.engine, f"{kind}Box({_dims(space)})", acts, spec.max_episode_steps)


def _dims(space: Box) -> str:
    return ", ".join(map(str, space.shape))
