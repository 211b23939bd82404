"""Gymnasium's MuJoCo tasks, v4 and v5, each written once for every physics engine."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from policy_gradients.environments.mujoco.tasks.rules import Rules
from policy_gradients.environments.mujoco.tasks.table import DEFINITIONS
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


def _definition(id: str) -> Any:
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
    default = known[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name == "main_body":
        expected, fits = "the name or number of a body", isinstance(value, str) or type(value) is int
    elif isinstance(default, bool):
        expected, fits = "true or false", isinstance(value, bool)
    elif isinstance(default, str):
        expected, fits = "the path of an XML file", isinstance(value, str)
    elif isinstance(default, tuple):
        expected, fits = "two numbers, low and high", isinstance(value, tuple | list) and len(value) == 2
        fits = fits and all(isinstance(bound, int | float) for bound in value) and value[0] <= value[1]
        value = tuple(value) if fits else value
    elif isinstance(default, int):
        expected, fits = "a whole number", is_number and isinstance(value, int)
    else:
        expected, fits = "a number", is_number
    if not fits:
        raise UserError(f"The option {name} of {id} takes {expected}, but {value!r} came.")
    return value
