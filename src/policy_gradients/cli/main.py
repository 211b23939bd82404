"""The entry point: finds the command, runs it, and turns what goes wrong into a sentence and an exit code."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from policy_gradients import __version__
from policy_gradients.cli.runtime import drop_output
from policy_gradients.errors import UserError, suggest

COMMANDS = {
    "train": "train a policy",
    "resume": "continue a run where it stopped",
    "evaluate": "test a trained policy",
    "sweep": "tune an algorithm's settings",
    "export": "write a policy as C99, ONNX or one file",
    "verify": "compare the runtimes of a policy",
    "plot": "draw learning curves of one or more runs",
    "envs": "list and describe environments",
    "benchmark": "time the simulator, the rollout and the whole iteration, or one action",
}
"""What each command does; its module has the same name."""

FAILED, BAD_INPUT, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Why output cannot be written: a full disk, a quota, `ulimit -f`, a terminal that is gone."""

_NO_MORE = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
"""Why the system gives no further file, process or memory: `ulimit`."""

_REFUSED = (*_NO_ROOM, *_NO_MORE, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)
"""Why a file cannot be used, that is no bug."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Arguments without the program's name; None for the process's own.

    Returns:
        The exit code: 0, 1 where training diverged, runtimes disagree or another process was lost, 2 for bad input or a
        broken environment, 129 where the terminal was closed, 130 after Ctrl-C, 141 where nobody reads the output any
        more, 143 after SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _open_closed_streams()
        _show_any_text()
        _find_own_modules()
        try:
            return _dispatch(arguments)
        finally:
            sys.stdout.flush()  # while a failure can still be told
    except KeyboardInterrupt:
        print("policy-gradients: stopped.", file=sys.stderr)
        return _leave(INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        drop_output(sys.stdout)
        return _leave(PIPE_CLOSED)
    except Exception as error:
        told = _in_words(error)
        code = _exit_code(told)
        if code is not None:
            return _leave(_complain(told, code))
        if not _joined():
            raise
        sys.excepthook(type(error), error, error.__traceback__)
        return _leave(FAILED)


def _open_closed_streams() -> None:
    """A standard stream that was closed (`2>&-`) leads nowhere: the next file that is opened would take its number.

    That might be a run's metrics, among which libraries in C would then log.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def _show_any_text() -> None:
    """Under an encoding that lacks a letter (ASCII, say) it is told as a question mark and not by a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _find_own_modules() -> None:
    """Puts the working directory on the path, for `my_module:MyEnv-v0`; last, so that no file there hides a library."""
    with contextlib.suppress(OSError):  # it may have been deleted
        here = os.getcwd()
        if here not in sys.path:
            sys.path.append(here)


def _joined() -> bool:
    """Whether this is one of several processes."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _leave(code: int) -> int:
    """The exit code; one of several processes ends at once, since at a regular exit each waits for the others."""
    if _joined():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else BAD_INPUT
    name, *rest = arguments
    if name in ("-V", "--version"):
        print(f"policy-gradients {__version__}")
        return 0
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        raise UserError(f"there is no command {name!r}; expected one of {known}.{suggest(name, COMMANDS)}")
    return import_module(f"policy_gradients.cli.{name}").run(rest)


def usage() -> str:
    """The help of the whole program."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
    return f"""usage: policy-gradients COMMAND …

On-policy policy gradients in JAX.

commands:
{commands}

  policy-gradients COMMAND --help     what a command takes
  policy-gradients --version          {__version__}

example:
  policy-gradients train ppo --env HalfCheetah-v4"""


def _in_words(error: Exception) -> Exception:
    """What the system refused (a file, our output, another process) as a sentence; any other failure as it is."""
    if not isinstance(error, OSError) or error.errno not in _REFUSED:
        return error
    if error.filename is not None:
        return UserError(f"cannot use {error.filename}: {error.strerror}.")
    if error.errno in _NO_ROOM:
        drop_output(sys.stdout)
        return UserError(f"cannot write the output: {error.strerror}.")
    return UserError(f"the system gives no more: {error.strerror} (ulimit -a tells its limits).")


def _exit_code(error: Exception) -> int | None:
    """The code of a failure that explains itself, or None; looked up by name, so that no module is imported for it."""
    kinds = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith("policy_gradients.")}
    if kinds & {"EnvironmentFailure", "UserError"}:
        return BAD_INPUT
    return FAILED if kinds & {"TrainingDiverged", "PeerLost"} else None


def _complain(error: Exception, code: int) -> int:
    with contextlib.suppress(OSError):  # nobody listens: the code tells
        for line in (f"policy-gradients: {error}", *getattr(error, "__notes__", ())):
            print(line, file=sys.stderr)
    return code
