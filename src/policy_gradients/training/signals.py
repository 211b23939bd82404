"""Ctrl-C, SIGTERM and SIGHUP ask a run to stop after the update at hand; a second Ctrl-C stops it at once."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self

STATUSES = ("", "disconnected", "interrupted", "terminated")
"""What `StopRequests.status` may be."""

_STATUS_OF = {signal.SIGHUP: "disconnected", signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class StopRequests:
    """A context in which signals are noted instead of acted on (in the main thread; elsewhere nothing).

    They are SIGINT, SIGTERM, and SIGHUP unless it is ignored, as under `nohup`, where a run outlives its terminal.

    Attributes:
        status: "" until a signal came, here or in another process of the run that tells of it; then "interrupted"
            (SIGINT), "terminated" (SIGTERM) or "disconnected" (SIGHUP).
    """

    def __init__(self) -> None:
        self.status = ""
        self._heard = False  # a signal to this process
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _STATUS_OF:
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        return bool(self.status)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._heard:
            raise KeyboardInterrupt
        self._heard = True
        self.status = _STATUS_OF[signal.Signals(number)]
