"""The workers of a TorchServe that failed to start or to load the model, and the cause in its log."""

import math
import re
import time

from serving.logs import LogRecord

MAX_WORKER_FAILURES = 3
"""Workers that may fail in a row before the archive is given up."""
RETRY_S = 15
"""A model that fails to load after this time is not loaded again."""


class WorkerFailures:
    """Counts workers that failed to start or to load the model, and finds the cause in the log."""

    FAILED = re.compile(r"Load model failed: |WorkerInitializationException: (?!.*did not respond)")
    UNKNOWN_CAUSE = (
        "a worker ended without an error message: the handler has called os._exit, or Linux has killed the "
        "process, such as one that was out of memory"
    )
    HANDLER_ERROR = re.compile(r"cannot serve this archive: (.+)$")
    # TorchServe imports a handler that cannot be imported once more, as one of its own.
    WORKER_ERROR = re.compile(
        r"^(?!ModuleNotFoundError: No module named 'ts\.torch_handler\.)"
        r"((?:\w+\.)*\w*(?:Error|Exception|Bad\w+|Exit): .+|Fatal Python error: .+)$"
    )
    JAVA_ERROR = re.compile(
        r"^(?:Terminating due to )?(?!\S+WorkerInit)((?:\w+\.)+\w*(?:Error|Exception): .+)$"
    )

    def __init__(self) -> None:
        self.count = 0
        """Workers that ended before they were ready."""
        self._last_retry = time.monotonic() + RETRY_S
        self._errors: dict[re.Pattern[str], str] = {}

    @property
    def are_final(self) -> bool:
        """Whether another attempt is not worth its time."""
        is_late = self.count > 0 and time.monotonic() > self._last_retry
        return self.count >= MAX_WORKER_FAILURES or is_late

    @property
    def cause(self) -> str | None:
        """The handler's own error, else the worker's last exception, else Java's."""
        for pattern in (self.HANDLER_ERROR, self.WORKER_ERROR, self.JAVA_ERROR):
            if pattern in self._errors:
                return self._errors[pattern]
        return None

    @property
    def reason(self) -> str:
        """Why a worker ended, for an error message."""
        return self.cause or self.UNKNOWN_CAUSE

    def reset(self) -> None:
        """Discard all failures, because the model has answered since."""
        self.count, self._last_retry = 0, math.inf
        self._errors.clear()

    def record(self, record: LogRecord) -> None:
        """Search one log record for failures and errors."""
        self.count += bool(self.FAILED.search(record.message))
        process_error = self.WORKER_ERROR if record.process == "worker" else self.JAVA_ERROR
        for line in record.message.splitlines():
            for pattern in (self.HANDLER_ERROR, process_error):
                if match := pattern.search(line.rstrip()):
                    self._errors[pattern] = match[1]
