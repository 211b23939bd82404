"""How many updates a run has, and after which of them an evaluation or a checkpoint is due."""

import math


def count_updates(total_steps: int, steps_per_update: int) -> int:
    """Updates until `total_steps` environment steps are taken; the last may go past that."""
    return math.ceil(total_steps / steps_per_update)


def is_due(update: int, updates: int, times: int) -> bool:
    """True after update 1 … `updates` where one of `times` evenly spread moments falls on it; the last is the end."""
    return update * times // updates > (update - 1) * times // updates


def due_updates(updates: int, times: int) -> tuple[int, ...]:
    """All updates for which `is_due` is true, in order."""
    return tuple(sorted({math.ceil(updates * k / times) for k in range(1, times + 1)}))
