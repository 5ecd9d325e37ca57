"""The limit on the time of a batch.

After the limit an exception is raised in the main thread, which runs the handler. Native code that does not
return to Python ignores it: a little later the stacks of all threads are logged, and the process ends.
TorchServe's Java then starts another worker.
"""

import faulthandler
import os
import select
import signal
import socket
import sys
import time
from types import FrameType, TracebackType

EXTRA_S = 0.2
"""Added to the limit: nginx answers its client first."""
EXIT_DELAY_S = 0.5
"""How long the exception may take to end the batch."""
REARM_S = 0.25
"""The exit is postponed at most this often, because each time creates a thread."""


class ResponseTimeoutError(BaseException):
    """The handler did not return in time. Not an Exception: a handler would catch it and continue."""


class TimeLimit:
    """A context manager for the code that has to end in time; created in the main thread."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._is_running = False
        self._armed_at = float("-inf")
        signal.signal(signal.SIGALRM, self._raise)

    def __enter__(self) -> None:
        """Start the time."""
        now = time.monotonic()
        if now - self._armed_at > REARM_S:
            delay = self.seconds + EXTRA_S + EXIT_DELAY_S + REARM_S
            faulthandler.dump_traceback_later(delay, exit=True, file=sys.stderr)
            self._armed_at = now
        self._is_running = True
        signal.setitimer(signal.ITIMER_REAL, self.seconds + EXTRA_S)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the time."""
        self._is_running = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    @property
    def is_armed(self) -> bool:
        """Whether the process ends soon unless `disarm` or the next batch prevents it."""
        return self._armed_at > float("-inf")

    def wait_for(self, connection: socket.socket) -> None:
        """Wait until a connection can be read; after REARM_S cancel the end of the process."""
        if self.is_armed and not select.select([connection], [], [], REARM_S)[0]:
            self.disarm()

    def disarm(self) -> None:
        """Cancel the end of the process."""
        faulthandler.cancel_dump_traceback_later()
        self._armed_at = float("-inf")

    def _raise(self, _number: int, _frame: FrameType | None) -> None:
        if self._is_running:
            self._is_running = False
            raise ResponseTimeoutError


def read_limit() -> TimeLimit:
    """Return the limit that the server has set for its workers."""
    return TimeLimit(float(os.environ.get("RESPONSE_TIMEOUT_S") or 50))
