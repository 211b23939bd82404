"""Gymnasium's MuJoCo tasks, v4 and v5, each written once for every physics engine."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from policy_gradients.environments.mujoco.tasks.rules import Rules
from policy_gradients.environments.mujoco.tasks.table import DEFINITIONS, Definition
from policy_gradients.errors import UserError, suggest

__all__ = ["DEFINITIONS", "Rules", "Task", "load_task"]


class Task(NamedTuple):
    """A task ready for an engine.

    Attributes:
        id: Gymnasium's id.
        model: The compiled `mujoco.MjModel`.
        rules: Observation, reward, end and start of episodes.
        frame_skip: Physics steps per environment step.
        max_episode_steps: Environment steps after which an episode is truncated.
        camera: Attributes of the free camera, used where the model has no camera named "track".
    """

    id: str
    model: Any
    rules: Rules
    frame_skip: int
    max_episode_steps: int
    camera: Mapping[str, Any]


def load_task(id: str, **options: Any) -> Task:
    """The task of an id, its model compiled from the XML file that Gymnasium ships.

    Args:
        id: One of `DEFINITIONS`, such as "HalfCheetah-v4".
        **options: Gymnasium's keyword arguments that change the task, by Gymnasium's names.

    Raises:
        UserError: The id or an option is unknown, or an option's value is of the wrong kind.
    """
    from policy_gradients.environments.mujoco.models import load_model, read_constants

    definition = _definition(id)
    values = {**definition.options, **{name: _checked(id, name, value) for name, value in options.items()}}
    xml_file = values.pop("xml_file", definition.xml_file)
    frame_skip = values.pop("frame_skip", definition.frame_skip)
    if frame_skip < 1:
        raise UserError(f"{id} takes a frame_skip of 1 or more, but {frame_skip} came.")
    model = load_model(xml_file)
    rules = definition.rules(constants=read_constants(model, frame_skip), **definition.fixed, **values)
    return Task(id, model, rules, frame_skip, definition.max_episode_steps, definition.camera)


def _definition(id: str) -> Definition:
    if id in DEFINITIONS:
        return DEFINITIONS[id]
    if id == "Pusher-v4":
        raise UserError("Pusher-v4 needs MuJoCo 2 (later versions let the arm pass through its object): use Pusher-v5.")
    raise UserError(f"{id!r} is none of the MuJoCo tasks {', '.join(DEFINITIONS)}.{suggest(id, DEFINITIONS)}")


def _checked(id: str, name: str, value: Any) -> Any:
    """The value of an option, of the kind of its default."""
    known = DEFINITIONS[id].options
    if name not in known:
        accepted = f"it takes {', '.join(known)}" if known else "it takes none"
        raise UserError(f"{id} has no option {name!r}: {accepted}.{suggest(name, known)}")
    kind, fits = _kind(name, known[name])
    if not fits(value):
        raise UserError(f"The option {name} of {id} takes {kind}, but {value!r} came.")
    return tuple(value) if isinstance(known[name], tuple) else value


def _kind(name: str, default: Any) -> tuple[str, Callable[[Any], bool]]:
    """What an option takes, in words and as a test."""
    if name == "main_body":
        return "the name or number of a body", lambda value: isinstance(value, str) or type(value) is int
    if isinstance(default, bool):
        return "true or false", lambda value: isinstance(value, bool)
    if isinstance(default, str):
        return "the path of an XML file", lambda value: isinstance(value, str)
    if isinstance(default, int):
        return "a whole number", lambda value: type(value) is int
    if isinstance(default, tuple):
        return "two numbers, low and high", _is_range
    return "a number", _is_number


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_range(value: Any) -> bool:
    pair = isinstance(value, tuple | list) and len(value) == 2
    return pair and all(map(_is_number, value)) and value[0] <= value[1]
