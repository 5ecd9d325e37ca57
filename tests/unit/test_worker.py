"""The worker speaks TorchServe's messages: TorchServe's own code is asked what they mean."""

import socket
import struct
import threading
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from ts.context import Context, RequestProcessor
from ts.protocol.otf_message_handler import create_predict_response, retrieve_msg
from ts.service import Service

from serving.worker.ts import model_service_worker as worker

REQUESTS = [
    ("one", {"host": "localhost"}, {"body": b'{"instances": [1]}'}),
    ("two", {}, {"body": b"\0" * 300_000, "also": b""}),
]


def text(content: str | bytes) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return struct.pack("!i", len(content)) + content


def message() -> bytes:
    """Write a batch as Java does."""
    end, parts = struct.pack("!i", -1), [worker.PREDICT]
    for one, headers, data in REQUESTS:
        parts += [text(one), *(text(part) for pair in headers.items() for part in pair), end]
        for name, value in data.items():
            parts += [text(name), text("application/json"), text(value)]
        parts.append(end)
    return b"".join([*parts, end])


def sent(content: bytes) -> socket.socket:
    """Return a connection on which something arrives, and then its end."""
    java, ours = socket.socketpair()

    def send() -> None:
        with java:
            java.sendall(content)

    threading.Thread(target=send, daemon=True).start()
    return ours


def test_a_batch_is_read_as_torchserve_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", "false")  # as Java sets it for us
    with sent(message()) as connection:
        _, batch = retrieve_msg(connection)
    headers, data, ids = Service.retrieve_data_for_inference(batch)
    with sent(message() * 2) as connection:
        messages = worker.Messages(connection)
        for _ in range(2):
            assert messages.command() == worker.PREDICT
            got_ids, got_headers, got_data = messages.requests()
            assert dict(enumerate(got_ids)) == ids
            assert got_data == data
            read = [about.get_request_properties() for about in got_headers]
            assert read == [about.get_request_properties() for about in headers]
        with pytest.raises(worker.FrontendDisconnectedError):
            messages.command()


@pytest.mark.parametrize(
    "bodies",
    [["a", b"bc"], [{"not": "text"}, "a"], ["\u00e9", ""]],
    ids=["text and bytes", "an object", "not ascii"],
)
def test_a_batch_is_answered_as_torchserve_answers_it(bodies: list[Any]) -> None:
    ids = ["one", "two"]
    context = answered()
    by_index = dict(enumerate(ids))
    wanted = create_predict_response(bodies, by_index, "Prediction success", 200, answered())
    assert worker._answer(context, ids, bodies) == bytes(wanted)


def answered() -> Context:
    """Return a context in which a handler has set statuses and headers."""
    context = Context("model", "/", {}, 2, None, "0.12.0")
    context.request_processor = [RequestProcessor({}), RequestProcessor({})]
    context.set_response_content_type(0, "application/json")
    context.set_response_status(400, "Bad Request", 1)
    context.set_response_header(1, "X-Why", "because")
    return context


@pytest.mark.parametrize(
    ("raised", "code"),
    [(MemoryError(), 507), (RuntimeError("CUDA out of memory"), 507), (ValueError("no"), 503)],
)
def test_a_handler_that_fails_is_told_of_as_torchserve_tells(raised: Exception, code: int) -> None:
    answer = predicted(raised)
    message = "Out of resources" if code == 507 else "Prediction failed"
    assert answer == bytes(create_predict_response(None, {0: "one"}, message, code))


@pytest.mark.parametrize("bodies", ["a", [], ["a", "b"]])
def test_a_handler_that_answers_another_number_of_requests_fails(bodies: Any) -> None:
    answer = predicted(bodies)
    assert struct.unpack("!i", answer[:4]) == (503,)


def predicted(outcome: Any) -> bytes:
    """Answer one request with a handler that raises or returns something."""
    context = Context("model", "/", {}, 1, None, "0.12.0")
    context.metrics = SimpleNamespace()
    handle = Mock(side_effect=[outcome])
    service = SimpleNamespace(context=context, cl_socket=None, _entry_point=handle)
    return worker._predict(service, ["one"], [RequestProcessor({})], [{}])
