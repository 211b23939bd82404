"""How a command line program runs JAX, and how it ends. The library itself never touches these settings."""

import contextlib
import os
import sys
from pathlib import Path
from typing import TextIO

from policy_gradients.errors import UserError

EXIT_CODES = {"finished": 0, "diverged": 1, "disconnected": 129, "interrupted": 130, "terminated": 143}
"""The exit code for each way in which a run or a sweep ends; that of a signal is 128 and its number, as in a shell."""


def exit_code(status: str) -> int:
    """The exit code of a run that ended so. Where its terminal was closed, all that is still to be told is dropped."""
    if status == "disconnected":
        for stream in (sys.stdout, sys.stderr):
            try:
                print(file=stream, flush=True)
            except OSError:
                drop_output(stream)
    return EXIT_CODES[status]


def drop_output(stream: TextIO) -> None:
    """What is still to be written is dropped: Python would try it again at the exit, and complain."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: a stream without a number
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def start_jax() -> None:
    """Imports JAX with the settings that suit a short-lived program on its own; the user's own settings win.

    - Compiled programs are kept on disk: a second run of the same experiment compiles in tenths of a second.
    - The CPU runs programs in the calling thread: no hand-over, and half the latency of small ones. It has to be set
      before the first computation, and unlike the others this option cannot come from the environment.
    - On a GPU JAX takes half of the memory instead of three quarters: MuJoCo Warp's worlds live in the rest.
    """
    folder = compilation_cache()
    if folder is not None:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")

    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)


def check_back_end() -> None:
    """Starts JAX's back end, which has to come after joining other processes.

    Raises:
        UserError: There is none of those that `JAX_PLATFORMS` allows.
    """
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where JAX knows the name, but nothing provides it
        reason = (str(error).strip() or "nothing installed provides it").splitlines()[0]
        raise UserError(
            f"JAX cannot compute with JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')} ({reason}); unset it, or "
            "install JAX for CUDA (pip install 'policy-gradients[gpu]') on a machine with an NVIDIA GPU."
        ) from error


def compilation_cache() -> Path | None:
    """The folder for compiled programs in the user's cache (`XDG_CACHE_HOME`); None where it cannot be made."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "policy-gradients" / "jax"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    return folder if os.access(folder, os.W_OK) else None
