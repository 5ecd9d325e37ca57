"""Jobs: each runs in the background, may be cancelled, and is deleted once it is over."""

import threading
from collections.abc import Callable
from typing import Any

from google.longrunning.operations_pb2 import Operation
from google.protobuf.empty_pb2 import Empty
from google.rpc import status_pb2

from emulator import operations
from emulator.errors import ApiError, failed_precondition
from emulator.resources import Kind, Method
from emulator.state import State, now


class Jobs(Kind):
    """One kind of job."""

    def __init__(
        self, name: str, kept: Callable[[State], dict[str, Any]], listing: Any, states: Any
    ) -> None:
        """`states` is the enum of its states: JobState or PipelineState."""
        super().__init__(name, kept, listing)
        self._states = {state.name.partition("_STATE_")[2]: state for state in states}
        self._cancelled: dict[str, threading.Event] = {}

    def begin(self, state: State, job: Any, work: Callable[[threading.Event], None]) -> Any:
        """Keep a job under its name and run it; return it as it is at its beginning.

        It succeeds unless `work` raises Refused; `work` raises CANCELLED once its event is set.
        """
        job.state, job.create_time = self._states["PENDING"], now()
        self.kept(state)[job.name] = job
        cancelled = self._cancelled[job.name] = threading.Event()

        def run(_: operations.Operation) -> Empty:
            job.state, job.start_time = self._states["RUNNING"], now()
            end = "FAILED"
            try:
                work(cancelled)
                end = "SUCCEEDED"
            except ApiError as error:
                job.error = status_pb2.Status(code=error.code, message=error.message)
                end = "CANCELLED" if error.status == "CANCELLED" else end
            finally:
                job.end_time, job.state = now(), self._states[end]
            return Empty()

        operations.start(state, job.name, "", run)
        return type(job)(job)

    def cancel(self, state: State, request: Any) -> Empty:
        """Ask a job to end."""
        self._cancelled[self.get(state, request).name].set()
        return Empty()

    def delete(self, state: State, request: Any) -> Operation:
        """Delete a job that is over."""
        job = self.get(state, request)
        if job.state in (self._states["PENDING"], self._states["RUNNING"]):
            raise failed_precondition(f"{job.name} is not over: cancel it first.")
        return super().delete(state, request)

    def methods(self) -> dict[str, Method]:
        """Return the methods by Google's names."""
        return {**super().methods(), f"Cancel{self.name}": self.cancel}


def stop_if(cancelled: threading.Event) -> None:
    """Raise Refused once a job was cancelled."""
    if cancelled.is_set():
        raise ApiError("CANCELLED", "The job was cancelled.")
