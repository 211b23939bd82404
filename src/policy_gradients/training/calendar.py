"""How many updates a run has, and after which of them an evaluation or a checkpoint is due."""

import math
from collections.abc import Sequence


def count_updates(total_steps: int, steps_per_update: int) -> int:
    """Updates until `total_steps` environment steps are taken; the last may go past that."""
    return math.ceil(total_steps / steps_per_update)


def is_due(update: int, updates: int, times: int) -> bool:
    """True after update 1 … `updates` where one of `times` evenly spread moments falls on it; the last is the end."""
    return update * times // updates > (update - 1) * times // updates


def due_updates(updates: int, times: int) -> tuple[int, ...]:
    """All updates for which `is_due` is true, in order."""
    return tuple(sorted({math.ceil(updates * k / times) for k in range(1, times + 1)}))


def until_due(update: int, updates: int, times: Sequence[int], most: int) -> int:
    """Updates that can follow number `update` in one go: at most `most`, up to the next that is due for any."""
    due = (n for n in range(1, most) if any(is_due(update + n, updates, each) for each in times))
    return min(next(due, most), updates - update)
