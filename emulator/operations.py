"""Long-running operations. Each one ends with a response, an error or a cancellation."""

import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from google.cloud import aiplatform_v1 as v1
from google.longrunning import operations_pb2
from google.protobuf import message
from google.rpc import code_pb2

from emulator.errors import ApiError
from emulator.faults import to_error
from emulator.listing import get_page
from emulator.state import State, canonical_name, now
from emulator.transcoding import to_beta, to_json, to_protobuf

PATH = re.compile(r"/(?:v1|v1beta1|v2|ui)/(.+?)/operations(?:/([^/:]+))?(?::(cancel))?")
_executor = ThreadPoolExecutor(max_workers=64, thread_name_prefix="operation")


@dataclass
class Operation:
    """Background work that a client polls."""

    name: str
    metadata: Any
    future: Future[Any] = field(default_factory=Future)
    cancelled: threading.Event = field(default_factory=threading.Event)
    beta: bool = False
    """Whether it was started through v1beta1, so that its messages are of that version."""

    def to_message(self) -> operations_pb2.Operation:
        """Return Google's message for the operation."""
        result = operations_pb2.Operation(name=self.name)
        result.metadata.Pack(self._to_protobuf(self.metadata))
        if self.future.done():
            result.done = True
            if (error := self.future.exception()) is None:
                result.response.Pack(self._to_protobuf(self.future.result()))
            elif isinstance(error, ApiError):
                result.error.code, result.error.message = error.code, error.message
            else:
                result.error.code = code_pb2.INTERNAL
                result.error.message = f"INTERNAL: {error!r}"
        return result

    def _to_protobuf(self, value: Any) -> message.Message:
        return to_protobuf(to_beta(value) if self.beta else value)


def use_beta(state: State, name: str) -> operations_pb2.Operation:
    """Let an operation's messages be of v1beta1, and return it."""
    state.operations[name].beta = True
    return state.operations[name].to_message()


def start(
    state: State, parent: str, rpc: str, work: Callable[[Operation], Any], metadata: Any = None
) -> operations_pb2.Operation:
    """Start work in the background, on the resource `parent`, and return its operation.

    `metadata` defaults to the message that Vertex AI has for the method.
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
            response = work(operation)
            if fault:
                raise to_error(fault, parent)
            return response
        finally:
            if hasattr(metadata, "generic_metadata"):
                metadata.generic_metadata.update_time = now()

    operation.future = _executor.submit(run)
    return operation.to_message()


def handle(state: State, path: str, query: Mapping[str, str]) -> dict[str, Any]:
    """Return the response to a request about operations, whose path matches PATH."""
    match = PATH.fullmatch(path)
    assert match is not None
    parent, number, action = canonical_name(match[1]).partition("@")[0], match[2], match[3]
    if number is None:
        found = [o for o in state.operations.values() if o.name.startswith(f"{parent}/")]
        page, token = get_page(found, query.get("pageSize", 0), query.get("pageToken", ""))
        messages = [operation.to_message() for operation in page]
        response = operations_pb2.ListOperationsResponse(operations=messages)
        response.next_page_token = token
        return to_json(response)
    suffix = f"/operations/{number}"
    operation = next((o for o in state.operations.values() if o.name.endswith(suffix)), None)
    if operation is None:
        raise ApiError("NOT_FOUND", f"Operation {number} is not found")
    if action == "cancel":
        operation.cancelled.set()
        return {}
    return to_json(operation.to_message())
