"""The error that a user can act on."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input: one sentence that says what was expected, what came and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


def suggest(word: str, known: Iterable[str]) -> str:
    """' Did you mean X?' for the known word nearest to `word`, or '' where none is near."""
    lowered = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return f" Did you mean {lowered[near[0]]!r}?" if near else ""
