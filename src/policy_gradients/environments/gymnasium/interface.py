"""What Gymnasium's interface asks of an environment, and the commonest ways in which one does not keep to it.

Runs inside a worker process; imports no JAX.
"""

import traceback
from typing import Any

import numpy as np


class Mistake(Exception):
    """An environment does not keep to the interface; the message says how, and needs no traceback."""


def failure(error: Exception) -> str:
    """What an exception did, for a report that begins with the call: a mistake in a sentence, others traced."""
    return f"failed: {error}." if isinstance(error, Mistake) else f"raised:\n{traceback.format_exc()}"


def space_of(env: Any, name: str) -> Any:
    """The environment's `observation_space` or `action_space`."""
    try:
        return getattr(env, name)
    except AttributeError as error:
        if error.name != name:
            raise  # the environment's own
        kinds = "Box" if name == "observation_space" else "Box or Discrete"
        raise Mistake(
            f"the environment has no {name}; set it to a gymnasium.spaces.{kinds} in its constructor"
        ) from error


def reset(env: Any, seed: int | None = None) -> Any:
    """The first observation of a new episode."""
    try:
        result = env.reset() if seed is None else env.reset(seed=seed)
    except (TypeError, ValueError) as error:
        own = getattr(env.unwrapped.reset, "__qualname__", "reset")
        if str(error).startswith(f"{own}() got an unexpected keyword argument"):
            raise Mistake(f"{error}; declare it as reset(self, *, seed=None, options=None)") from error
        if _of_a_wrapper(error):
            raise Mistake(f"reset returned other than {_RESET} ({error})") from error
        raise
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Mistake(f"reset returned {_came(result)}, expected {_RESET}")
    return result[0]


def step(env: Any, action: Any) -> tuple[Any, float, bool, bool]:
    """Observation, reward, terminated and truncated after an action."""
    try:
        result = env.step(action)
    except (TypeError, ValueError) as error:
        if _of_a_wrapper(error):
            raise Mistake(f"step returned other than {_STEP} ({error})") from error
        raise
    if not isinstance(result, tuple | list) or len(result) != 5:
        raise Mistake(f"step returned {_came(result)}, expected {_STEP}")
    obs, reward, terminated, truncated, _ = result
    return obs, _number(reward), bool(terminated), bool(truncated)


_RESET = "(obs, info)"
_STEP = "(obs, reward, terminated, truncated, info), where the old `done` is two flags"


def _came(result: Any) -> str:
    return f"{len(result)} values" if isinstance(result, tuple | list) else type(result).__name__


def _of_a_wrapper(error: Exception) -> bool:
    """True where one of Gymnasium's wrappers could not take apart what the environment had returned."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return "unpack" in str(error) and frames[-1].f_globals.get("__name__", "").startswith("gymnasium.")


def _number(reward: Any) -> float:
    """The reward, also where it comes as an array of one number."""
    if isinstance(reward, float):
        return reward
    try:
        return float(np.asarray(reward).item())
    except (TypeError, ValueError) as error:
        raise Mistake(f"step returned the reward {reward!r}, expected a number") from error
