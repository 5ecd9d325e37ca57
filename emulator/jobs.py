"""Jobs: they run in the background, can be cancelled, and can be deleted once they have ended."""

import threading
from collections.abc import Callable
from typing import Any

from google.longrunning.operations_pb2 import Operation
from google.protobuf.empty_pb2 import Empty
from google.rpc import status_pb2

from emulator import operations
from emulator.errors import ApiError, failed_precondition
from emulator.resources import Method, ResourceType
from emulator.state import State, now


class JobType(ResourceType):
    """A resource type whose resources are jobs."""

    def __init__(
        self,
        name: str,
        collection: Callable[[State], dict[str, Any]],
        list_response_type: Any,
        states: Any,
    ) -> None:
        """`states` is the enum of the job's states: JobState or PipelineState."""
        super().__init__(name, collection, list_response_type)
        self._states = {member.name.partition("_STATE_")[2]: member for member in states}
        self._operations: dict[str, str] = {}
        """Job → the operation that runs it."""

    def start(self, state: State, job: Any, work: Callable[[threading.Event], None]) -> Any:
        """Store a job under its name, run it in the background, and return a copy in its first state.

        The job succeeds unless `work` raises ApiError. `work` must raise CANCELLED once its event is set.
        """
        job.state, job.create_time = self._states["PENDING"], now()
        self.collection(state)[job.name] = job

        def run(operation: operations.Operation) -> Empty:
            job.state, job.start_time = self._states["RUNNING"], now()
            job.update_time = now()
            end = "FAILED"
            try:
                work(operation.cancelled)
                raise_if_cancelled(operation.cancelled)
                end = "SUCCEEDED"
            except ApiError as error:
                job.error = status_pb2.Status(code=error.code, message=error.message)
                end = "CANCELLED" if error.status == "CANCELLED" else end
            finally:
                job.end_time, job.state = now(), self._states[end]
                job.update_time = job.end_time
            return Empty()

        first = type(job)(job)
        self._operations[job.name] = operations.start(state, job.name, "", run).name
        return first

    def cancel(self, state: State, request: Any) -> Empty:
        """Request that a job ends."""
        job = self.get(state, request)
        with state.lock:
            if job.state in (self._states["PENDING"], self._states["RUNNING"]):
                job.state, job.update_time = self._states["CANCELLING"], now()
                state.operations[self._operations[job.name]].cancelled.set()
        return Empty()

    def delete(self, state: State, request: Any) -> Operation:
        """Delete a job that has ended."""
        job = self.get(state, request)
        if job.state in [self._states[name] for name in ("PENDING", "RUNNING", "CANCELLING")]:
            raise failed_precondition(f"{job.name} has not ended: cancel it first.")
        return super().delete(state, request)

    def methods(self) -> dict[str, Method]:
        """Return the methods by Google's names."""
        return {**super().methods(), f"Cancel{self.name}": self.cancel}


def raise_if_cancelled(cancelled: threading.Event) -> None:
    """Raise ApiError CANCELLED if a job was cancelled."""
    if cancelled.is_set():
        raise ApiError("CANCELLED", "The job was cancelled.")
