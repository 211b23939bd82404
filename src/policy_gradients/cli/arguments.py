"""Argument parsing for commands with a handful of options."""

import argparse
import math
from collections.abc import Sequence
from typing import Literal, NoReturn

from policy_gradients.errors import UserError, suggest


class Parser(argparse.ArgumentParser):
    """argparse that fails with a `UserError`, and suggests the option that was meant.

    Args:
        command: The command's name.
        description: What it does.
    """

    def __init__(self, command: str, description: str) -> None:
        super().__init__(f"policy-gradients {command}", description=description, allow_abbrev=False)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The arguments by name.

        Raises:
            UserError: They are not those of the command.
        """
        known, unknown = self.parse_known_args(list(arguments))
        for token in unknown:
            self.error(f"there is no argument {token!r}.{suggest(token, self._option_string_actions)}")
        return known

    def error(self, message: str) -> NoReturn:
        """Raises the message as a `UserError`."""
        end = "" if message.endswith((".", "?")) else "."
        raise UserError(f"{self.prog.partition(' ')[2]}: {message}{end}")


def positive(text: str) -> int:
    """A whole number from 1 on, for `type=`."""
    return _at_least(1, text)


def not_negative(text: str) -> int:
    """A whole number from 0 on, for `type=`."""
    return _at_least(0, text)


def seed(text: str) -> int:
    """A seed, from 0 to 2³² − 1, for `type=`."""
    number = not_negative(text)
    if number >= 1 << 32:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 2³² − 1, got {text!r}")
    return number


def devices(text: str) -> int | Literal["all"]:
    """A number of devices, or "all" (also as -1), for `type=`."""
    return "all" if text in ("all", "-1") else positive(text)


def _at_least(least: int, text: str) -> int:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number.is_integer() or number < least:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least} on, got {text!r}")
    return int(number)
