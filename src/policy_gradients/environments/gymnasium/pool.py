"""The trainer's side of the worker processes: start, command, report, end."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from multiprocessing import spawn
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, BinaryIO

from policy_gradients.environments.gymnasium import worker
from policy_gradients.environments.gymnasium.buffers import Buffers, Layout, buffers, shared_block, shared_file
from policy_gradients.environments.gymnasium.chunk import ChunkPlan, EnvInfo
from policy_gradients.errors import UserError

_START = "import sys; sys.path[:] = {path!r}; from {module} import main; main({descriptors})"
_SINGLE_THREADED = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class WorkerFailure(Exception):
    """A worker answered with an error or died.

    Attributes:
        worker: Which one.
        report: What happened, with the traceback where there is one.
        error: Class names (the error's own first) and message of the exception, where it was raised while the
            environments were being made.
    """

    def __init__(self, worker: int, report: str, error: tuple[list[str], str] | None = None) -> None:
        super().__init__(report)
        self.worker, self.report, self.error = worker, report, error


class _Worker:
    """One process with its two pipes and the file that it writes to when it crashes."""

    def __init__(self, index: int, memory: int) -> None:
        self.index = index
        command_end, command = os.pipe()
        answer, answer_end = os.pipe()
        self.commands, self.answers = Connection(command, readable=False), Connection(answer, writable=False)
        self.crash_report: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process runs
        inherited = (command_end, answer_end, memory, self.crash_report.fileno())
        path = sys.path if os.getcwd() in sys.path or "" in sys.path else [*sys.path, os.getcwd()]
        code = _START.format(path=path, module=worker.__name__, descriptors=", ".join(map(str, inherited)))
        try:
            # A new interpreter: a fork would copy JAX's locks without the threads that hold them. Its own process
            # group: Ctrl-C at the terminal is for the trainer alone.
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=inherited,
                env={**_SINGLE_THREADED, **os.environ},
                process_group=0,
            )
        finally:
            os.close(command_end)
            os.close(answer_end)

    def send(self, payload: bytes) -> None:
        try:
            self.commands.send_bytes(payload)
        except OSError as error:
            raise self.death() from error

    def receive(self) -> Any:
        try:
            return self.answers.recv()
        except (EOFError, OSError) as error:
            raise self.death() from error

    def command(self, code: bytes) -> None:
        try:
            os.write(self.commands.fileno(), code)
        except OSError as error:
            raise self.death() from error

    def wait(self) -> None:
        answer = os.read(self.answers.fileno(), 1)
        if answer == worker.FAILED:
            raise WorkerFailure(self.index, self.receive())
        if answer != worker.DONE:
            raise self.death()

    def death(self) -> WorkerFailure:
        try:
            code = self.process.wait(timeout=worker.GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"left with exit code {code}"
        self.crash_report.seek(0)
        trace = self.crash_report.read().decode(errors="replace").strip()
        return WorkerFailure(self.index, f"ended a worker process, which {how}." + (f"\n{trace}" if trace else ""))


class WorkerPool:
    """Processes that each step a contiguous chunk of the environments."""

    def __init__(self, plans: Sequence[ChunkPlan]) -> None:
        if worker.inside:
            raise UserError(
                "A worker process imported a script that starts training at once; put the script's own work under "
                "`if __name__ == '__main__':`."
            )
        payloads = [_importable(plan) for plan in plans]
        main_module = _main_module(payloads[0], plans[0])
        self._memory = shared_file()
        self._workers: list[_Worker] = []
        self.close = weakref.finalize(self, _end, self._workers, self._memory)
        try:
            for plan in plans:
                self._workers.append(_Worker(plan.worker, self._memory))
            for process, payload in zip(self._workers, payloads, strict=True):
                process.send(main_module)
                process.send(payload)
            self.info: EnvInfo = self._await_environments()
        except BaseException:
            self.close()
            raise

    def attach(self, layout: Layout) -> Buffers:
        """The memory shared with all workers."""
        block = shared_block(self._memory, layout)
        for process in self._workers:
            process.send(bytes(ForkingPickler.dumps(layout)))
        return buffers(block, layout)

    def reset(self) -> None:
        """Resets all environments from the seeds in the shared memory."""
        self._run(worker.RESET)

    def step(self) -> None:
        """Steps all environments with the actions in the shared memory."""
        self._run(worker.STEP)

    def _run(self, code: bytes) -> None:
        for process in self._workers:
            process.command(code)
        for process in self._workers:
            process.wait()

    def _await_environments(self) -> EnvInfo:
        infos = []
        for process in self._workers:
            error, result = process.receive()
            if error is not None:
                raise WorkerFailure(process.index, result, error)
            infos.append(result)
        return infos[0]


def _importable(plan: ChunkPlan) -> bytes:
    """The plan as bytes for a new process; functions and classes travel by the name under which they are imported."""
    try:
        return bytes(ForkingPickler.dumps(plan))
    except Exception as error:
        what = "an option of the environment" if isinstance(plan.make, str) else f"the callable {plan.make!r}"
        raise UserError(
            f"Cannot hand {what} to the worker processes ({error}); pass an id, or a function or class that is defined "
            f"at the top of a module, or num_workers=0 to step the environments inside this process."
        ) from error


def _main_module(payload: bytes, plan: ChunkPlan) -> bytes:
    """Where a new process finds the running script, if the plan needs it."""
    where = {}
    if b"__main__" in payload:
        data = spawn.get_preparation_data("worker")
        where = {key: data[key] for key in ("init_main_from_path", "init_main_from_name") if key in data}
        if not where:
            raise UserError(
                f"{plan.make!r} is defined in an interactive session, which worker processes cannot import; put it "
                f"into a module, or pass num_workers=0."
            )
    return bytes(ForkingPickler.dumps(where))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end(workers: list[_Worker], memory: int) -> None:
    """Ends all workers: closed pipes ask them to, and none outlives its grace."""
    for process in workers:
        process.commands.close()
    for process in workers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.process.wait(timeout=worker.GRACE)
        if process.process.poll() is None:
            process.process.kill()
            process.process.wait()
        process.answers.close()
        process.crash_report.close()
    workers.clear()
    os.close(memory)
