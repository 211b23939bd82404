"""The worker process: makes its chunk of environments, then resets and steps them until the trainer leaves.

A command is one byte on a pipe and so is the answer, some 6 µs a round; everything else is in shared memory. The end of
the command pipe means that the trainer has closed the environment or is gone, however it went.
"""

import contextlib
import faulthandler
import os
import select
import signal
import sys
import threading
import time
import warnings
from multiprocessing import spawn
from multiprocessing.connection import Connection
from typing import Any

from policy_gradients.environments.gymnasium.buffers import Layout, buffers, shared_block
from policy_gradients.environments.gymnasium.chunk import Chunk, ChunkPlan
from policy_gradients.environments.gymnasium.interface import failure

RESET, STEP = b"r", b"s"
DONE, FAILED = b"d", b"f"
GRACE = 5.0
"""Seconds that an environment has to finish its step and close once the trainer has left."""

inside = False
"""True in a worker process, where no further workers may be started."""


def main(commands: int, answers: int, memory: int, crash_report: int) -> None:
    """Serves until the command pipe ends. The arguments are inherited file descriptors."""
    global inside
    inside = True
    # Ctrl-C and a scheduler's signals reach every process of a job; the trainer saves its work first, then closes us.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable(crash_report)
    threading.Thread(target=_leave_with_trainer, args=(commands,), daemon=True).start()
    reader, writer = Connection(commands, writable=False), Connection(answers, readable=False)
    with contextlib.suppress(EOFError, BrokenPipeError):
        _serve(reader, writer, memory)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads that an environment left running would hold up an ordinary exit


def _serve(reader: Connection, writer: Connection, memory: int) -> None:
    chunk = None
    try:
        chunk = _prepare(reader, writer)
        if chunk is None:
            return
        layout: Layout = reader.recv()
        chunk.attach(buffers(shared_block(memory, layout), layout))
        calls = {RESET: chunk.reset, STEP: chunk.step}
        while command := os.read(reader.fileno(), 1):
            try:
                calls[command]()
            except Exception as error:
                os.write(writer.fileno(), FAILED)
                writer.send(failure(error))
                return
            os.write(writer.fileno(), DONE)
    finally:
        if chunk is not None:
            chunk.close()


def _prepare(reader: Connection, writer: Connection) -> Chunk | None:
    """Makes the environments and answers (None, what they are), or (the error, its report) and None."""
    try:
        main_module: dict[str, Any] = reader.recv()
        if main_module:
            spawn.prepare(main_module)  # the trainer's script, in which the callable stands
        plan: ChunkPlan = reader.recv()
        if plan.worker > 0:
            warnings.simplefilter("ignore")  # the first worker says the same
        chunk = Chunk(plan)
        info = chunk.describe()
    except EOFError:
        raise
    except Exception as error:
        writer.send((summarize(error), failure(error)))
        return None
    writer.send((None, info))
    return chunk


def summarize(error: Exception) -> tuple[list[str], str]:
    """The names of an exception's class and of its bases, and its message: the exception itself may not travel."""
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__], str(error)


def _leave_with_trainer(commands: int) -> None:
    """Ends this process some seconds after the trainer has left, even where an environment hangs."""
    poll = select.poll()
    poll.register(commands, 0)  # no event but the end of the pipe
    poll.poll()
    time.sleep(GRACE)
    os._exit(1)
