"""Long-running operations. Each one ends: in its answer, in an error, or in a cancellation."""

import re
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from google.cloud import aiplatform_v1 as v1
from google.longrunning import operations_pb2

from emulator.errors import ApiError
from emulator.faults import to_error
from emulator.state import State, canonical_name, now
from emulator.transcoding import as_json, plain

PATH = re.compile(r"/(?:v1|v1beta1|v2|ui)/(.+?)/operations(?:/([^/:]+))?(?::(cancel))?")
_workers = ThreadPoolExecutor(max_workers=64, thread_name_prefix="operation")


@dataclass
class Operation:
    """Work under way for a client that polls."""

    name: str
    metadata: Any
    future: Future[Any] = field(default_factory=Future)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def message(self) -> operations_pb2.Operation:
        """Return it as Google's clients read it."""
        written = operations_pb2.Operation(name=self.name)
        written.metadata.Pack(plain(self.metadata))
        if self.future.done():
            written.done = True
            if (error := self.future.exception()) is None:
                written.response.Pack(plain(self.future.result()))
            elif isinstance(error, ApiError):
                written.error.code, written.error.message = error.code, error.message
            else:
                written.error.code, written.error.message = 13, f"INTERNAL: {error!r}"
        return written


def start(
    state: State, parent: str, rpc: str, work: Callable[[Operation], Any], metadata: Any = None
) -> operations_pb2.Operation:
    """Begin work in the background, on the resource `parent`, and return its operation.

    The metadata are by default what Vertex AI gives for the method.
    """
    if metadata is None:
        metadata = getattr(v1, f"{rpc}OperationMetadata", v1.DeleteOperationMetadata)()
    if hasattr(metadata, "generic_metadata"):
        metadata.generic_metadata = {"create_time": now(), "update_time": now()}
    operation = Operation(f"{parent}/operations/{state.next_id()}", metadata)
    with state.lock:
        state.operations[operation.name] = operation
    fault = state.faults.take(rpc, "failing")

    def run() -> Any:
        try:
            answer = work(operation)
            if fault:
                raise to_error(fault, parent)
            return answer
        finally:
            if hasattr(metadata, "generic_metadata"):
                metadata.generic_metadata.update_time = now()

    operation.future = _workers.submit(run)
    return operation.message()


def answer(state: State, path: str) -> dict[str, Any]:
    """Answer a request about operations, whose path is one of PATH."""
    match = PATH.fullmatch(path)
    assert match is not None
    parent, number, what = canonical_name(match[1]).partition("@")[0], match[2], match[3]
    if number is None:
        under = [o for o in state.operations.values() if o.name.startswith(f"{parent}/")]
        return as_json(
            operations_pb2.ListOperationsResponse(operations=[o.message() for o in under])
        )
    ends = f"/operations/{number}"
    found = next((o for o in state.operations.values() if o.name.endswith(ends)), None)
    if found is None:
        raise ApiError("NOT_FOUND", f"Operation {number} is not found")
    if what == "cancel":
        found.cancelled.set()
        return {}
    return as_json(found.message())
