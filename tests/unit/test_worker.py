"""The worker's messages, compared with those that TorchServe's own code reads and writes."""

import json
import logging
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from ts.context import Context, RequestProcessor
from ts.protocol.otf_message_handler import create_predict_response, retrieve_msg
from ts.service import PredictionException, Service

from serving.worker.serving_worker import (
    device,
    direct,
    http_messages,
    limit,
    logs,
    messages,
    process,
    service,
)
from serving.worker.serving_worker.cores import SharedCores, create_shared_cores
from serving.worker.serving_worker.telemetry import create_sender
from tests.images import ROOT
from tests.unit.test_batch import NO_MEMORY, OTHER_FAULTS

REQUESTS = [
    ("one", {"host": "localhost"}, {"body": b'{"instances": [1]}'}),
    ("two", {}, {"body": b"\0" * 300_000, "also": b""}),
]


def run(time_limit: limit.TimeLimit) -> service.Runtime:
    return service.Runtime(time_limit, SharedCores(None, 1, 1), create_sender({}))


def encode_text(content: str | bytes) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return struct.pack("!i", len(content)) + content


def encode_batch() -> bytes:
    """Return REQUESTS as Java sends them."""
    end, parts = struct.pack("!i", -1), [messages.PREDICT]
    for request_id, headers, data in REQUESTS:
        header_parts = (encode_text(part) for pair in headers.items() for part in pair)
        parts += [encode_text(request_id), *header_parts, end]
        for name, value in data.items():
            parts += [encode_text(name), encode_text("application/json"), encode_text(value)]
        parts.append(end)
    return b"".join([*parts, end])


def receive(content: bytes) -> socket.socket:
    """Return a connection that receives the content and is then closed."""
    java, ours = socket.socketpair()

    def send() -> None:
        with java:
            java.sendall(content)

    threading.Thread(target=send, daemon=True).start()
    return ours


def test_batch_is_parsed_as_torchserve_parses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", "false")  # as Java sets it
    with receive(encode_batch()) as connection:
        _, batch = retrieve_msg(connection)
    headers, data, ids = Service.retrieve_data_for_inference(batch)
    with receive(encode_batch() * 2) as connection:
        received = messages.Messages(connection)
        for _ in range(2):
            assert received.read_command() == messages.PREDICT
            got_ids, got_headers, got_data = received.read_requests()
            assert dict(enumerate(got_ids)) == ids
            assert got_data == data
            properties = [request.get_request_properties() for request in got_headers]
            assert properties == [request.get_request_properties() for request in headers]
        with pytest.raises(messages.FrontendDisconnectedError):
            received.read_command()


@pytest.mark.parametrize(
    "bodies", [["a", b"bc"], ["\u00e9", ""]], ids=["text and bytes", "not ascii"]
)
def test_batch_is_answered_as_torchserve_answers_it(bodies: list[Any]) -> None:
    ids = ["one", "two"]
    marked = answered_context()
    for index in (0, 1):
        marked.set_response_header(index, messages.MARK, "1")
    expected = create_predict_response(
        bodies, dict(enumerate(ids)), "Prediction success", 200, marked
    )
    sent = messages.encode_responses(ids, bodies, answered_context().request_processor)
    assert sent == bytes(expected)
    parsed = list(messages.parse_responses(sent))
    texts = [body.encode() if isinstance(body, str) else body for body in bodies]
    assert parsed == list(zip(ids, texts, strict=True))


def answered_context() -> Context:
    """Return a context in which a handler has set statuses and headers."""
    context = Context("model", "/", {}, 2, None, "0.12.0")
    context.request_processor = [RequestProcessor({}), RequestProcessor({})]
    context.set_response_content_type(0, "application/json")
    context.set_response_status(400, "Bad Request", 1)
    context.set_response_header(1, "X-Why", "because")
    return context


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (NO_MEMORY[0], 503, "out of memory"),
        (MemoryError(), 503, "out of memory"),
        *((error, 500, "the handler failed") for error in OTHER_FAULTS),
        (ValueError("secret"), 500, "the handler failed: ValueError"),
        (PredictionException("not found", 404), 404, "not found"),
    ],
)
def test_exception_of_a_handler_becomes_an_error_of_each_request(
    raised: Exception, code: int, message: str
) -> None:
    (body,), request = predict(raised)
    error = json.loads(body)["error"]
    assert request.get_response_status_code() == error["code"] == code
    assert message in error["message"]
    assert "secret" not in error["message"]


@pytest.mark.parametrize("outcome", ["a", [], ["a", "b"], [object()]])
def test_wrong_result_of_a_handler_is_an_error_of_the_server(outcome: Any) -> None:
    (body,), request = predict(outcome)
    assert request.get_response_status_code() == json.loads(body)["error"]["code"] == 500


@pytest.mark.parametrize(
    ("returned", "body"),
    [
        ("\u00e9", "\u00e9".encode()),
        (bytearray(b"a"), b"a"),
        ({"a": [1]}, b'{\n  "a": [\n    1\n  ]\n}'),
    ],
)
def test_result_of_a_handler_is_converted_as_torchserve_converts_it(
    returned: Any, body: bytes
) -> None:
    assert predict([returned])[0] == [body]


def test_handler_that_takes_too_long_is_interrupted() -> None:
    def handle(*_: Any) -> list[str]:
        try:
            time.sleep(30)
        except Exception:  # noqa: BLE001  as a handler would
            return ["caught by the handler"]
        return ["finished"]

    started = time.monotonic()
    (body,), request = predict(handle, seconds=0.1)
    assert time.monotonic() - started < 20
    assert request.get_response_status_code() == json.loads(body)["error"]["code"] == 504


def test_worker_does_not_load_a_model_on_the_cpu_if_torch_cannot_use_its_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device.check_assigned(0)  # torch here is built for CPUs
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    device.check_assigned(None)
    with pytest.raises(device.DeviceError, match="torch cannot use GPU 0 of this machine: Torch"):
        device.check_assigned(0)


BUSY_WORKER = """
import sys
from serving.worker.serving_worker.cores import create_shared_cores
with create_shared_cores({"SHARED_CORES_FILE": sys.argv[1], "SHARED_CORES": "4", "WORKERS": "3"}):
    print("busy", flush=True)
    sys.stdin.read()
"""


def test_worker_uses_all_threads_while_the_others_are_idle_else_its_share_of_the_cores(
    tmp_path: Path, threads: int
) -> None:
    del threads
    variables = {"SHARED_CORES_FILE": str(tmp_path / "f"), "SHARED_CORES": "4", "WORKERS": "3"}
    cores = create_shared_cores(variables)

    def count_threads() -> int:
        with cores:
            return torch.get_num_threads()

    def start_busy_worker() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", BUSY_WORKER, str(tmp_path / "f")]
        pipe = subprocess.PIPE
        worker = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT)
        assert worker.stdout is not None
        assert worker.stdout.readline() == "busy\n"
        return worker

    assert count_threads() == 3
    with start_busy_worker() as first:
        assert count_threads() == 2
        with start_busy_worker() as second:
            assert count_threads() == 1
            second.communicate(timeout=10)  # its batch ends
        assert count_threads() == 2
        first.kill()
    assert count_threads() == 3


@pytest.fixture
def threads() -> Iterator[int]:
    """Let torch use three threads in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


def predict(outcome: Any, seconds: float = 50) -> tuple[list[Any], RequestProcessor]:
    """Answer one request with a handler that raises or returns the outcome, or is it."""
    context = Context("model", "/", {}, 1, None, "0.12.0")
    context.metrics = SimpleNamespace()
    handle = outcome if callable(outcome) else Mock(side_effect=[outcome])
    loaded = SimpleNamespace(context=context, cl_socket=None, _entry_point=handle)
    request = RequestProcessor({})
    time_limit = limit.TimeLimit(seconds)
    try:
        return service.predict(loaded, ["one"], [request], [{}], run(time_limit)), request
    finally:
        time_limit.disarm()


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (logging.INFO, "two lines"),
        (
            logging.ERROR,
            {"severity": "ERROR", "message": "two\nlines", "requests": ["7"], "trace": "t"},
        ),
    ],
)
def test_warnings_and_errors_are_logged_as_json_with_their_request_and_trace(
    level: int, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [RequestProcessor({"X-Request-Id": "7", "X-Trace": "t"}), RequestProcessor({})]
    monkeypatch.setattr(logs.JsonFormatter, "requests", requests)
    record = logging.LogRecord("name", level, "file", 1, "two\nlines", None, None)
    line = logs.JsonFormatter("%(message)s").format(record)
    assert (line if level == logging.INFO else json.loads(line)) == expected


def test_handler_of_an_older_archive_reports_its_timings_too() -> None:
    context = SimpleNamespace()
    loaded = SimpleNamespace(context=context, set_cl_socket=lambda _: None)

    with pytest.raises(messages.FrontendDisconnectedError):
        answer_load((loaded, "loaded", 200))
    assert context.tell_stages == context.on_timings


def answer_load(result: tuple[Any, str, int]) -> None:
    """Pass a worker the message to load a model, with what TorchServe's code returns for it."""

    class LoadingWorker(process.Worker):
        def __init__(self) -> None:
            """Create no socket."""

        def load_model(self, _: Any) -> tuple[Any, str, int]:
            return result

    load = [messages.LOAD, *map(encode_text, ("model", "/model"))]
    load += [struct.pack("!i", 1), encode_text("handler"), struct.pack("!i", -1)]
    load += [encode_text(""), b"\0"]
    java, connection = socket.socketpair()
    java.sendall(b"".join(load))
    java.shutdown(socket.SHUT_WR)
    try:
        LoadingWorker().handle_connection(connection)
    finally:
        connection.close()
        with java:
            sent = java.recv(1)
            assert bool(sent) == (result[2] == 200)


@pytest.mark.parametrize("code", [500, 507])
def test_failure_to_load_ends_the_worker_unanswered(code: int) -> None:
    with pytest.raises(RuntimeError, match=f"{code} - not loaded"):
        answer_load((None, "not loaded", code))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"POST / HTTP/1.1\r\n",
        b"POST / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nshort",
        b"POST / HTTP/1.1\r\nContent-Length: 9223372036854775000\r\n\r\n",
    ],
)
def test_invalid_request_from_nginx_is_a_protocol_error(content: bytes) -> None:
    with receive(content) as connection, pytest.raises(http_messages.ProtocolError):
        http_messages.receive(connection)


def test_stream_that_fails_ends_without_the_others() -> None:
    def stream(part: str, *, fails: bool) -> Iterator[Any]:
        yield part
        if fails:
            yield {"not": "a text"}
        yield part

    java, connection = socket.socketpair()
    ids, requests = ["one", "two", "three"], [RequestProcessor({}) for _ in range(3)]
    bodies: list[service.Body] = [stream("a", fails=True), stream("b", fails=False), b"c"]
    with java:
        with connection:
            time_limit = limit.TimeLimit(50)
            whole = process._send_parts(connection, ids, requests, bodies, run(time_limit))
            time_limit.disarm()
        assert whole == [b"", b"", b"c"]
        parts = java.recv(10_000).split(messages._HEAD)[1:]
    sent = [next(messages.parse_responses(messages._HEAD + part)) for part in parts]
    assert sent == [("one", b"a"), ("two", b"b"), ("two", b"b")]


def load(entry_point: Callable[..., Any]) -> Any:
    """Return the service of a model whose handler is a function."""
    context = Context("model", "/", {}, 1, None, "0.12.0")
    context.metrics = SimpleNamespace()
    return SimpleNamespace(
        context=context, cl_socket=None, set_cl_socket=Mock(), _entry_point=entry_point
    )


def test_request_waits_for_as_many_others_as_the_batch_before_had(tmp_path: Path) -> None:
    arrivals_s: list[list[float]] = [[0, 0, 0], [0, 0.05, 0.1], [0], [0]]
    sizes: list[int] = []
    waits_s: list[float] = []

    def answer(data: list[Any], _: Any) -> list[str]:
        sizes.append(len(data))
        return ["answer"] * len(data)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        listener.setblocking(False)
        time_limit = limit.TimeLimit(50)
        batches = direct.Batches(8, gather_s=0.4)
        server = direct.DirectServer(listener, load(answer), batches, run(time_limit))
        for group in arrivals_s:
            clients = [
                threading.Thread(target=request, args=(tmp_path, delay_s)) for delay_s in group
            ]
            for client in clients:
                client.start()
            time.sleep(0.02)  # the first ones wait in the listener
            began = time.monotonic()
            server._serve_batch()
            waits_s.append(time.monotonic() - began)
            for client in clients:
                client.join(10)
        time_limit.disarm()
    assert sizes == [3, 3, 1, 1]
    assert waits_s[0] < 0.4, "nothing was known about other clients"
    assert waits_s[1] < 0.4, "the third came before the time was up"
    assert waits_s[2] >= 0.4, "the others did not come"
    assert waits_s[3] < 0.4, "a client alone"


def request(folder: Path, delay_s: float) -> None:
    """Send a request to the socket in a folder after a time, and wait for the response."""
    time.sleep(delay_s)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(folder / "socket"))
        client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        client.recv(1000)


def test_request_is_answered_if_its_wake_up_went_to_a_worker_that_was_killed(
    tmp_path: Path,
) -> None:
    loaded = load(lambda *_: ["answer"])
    java, connection = socket.socketpair()
    time_limit, answers = limit.TimeLimit(50), []

    def send() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "socket"))
            client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
            answers.append(client.recv(1000))
        java.close()

    def disconnect() -> None:
        raise messages.FrontendDisconnectedError

    with socket.socket(socket.AF_UNIX) as listener, select.epoll() as killed, connection:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        listener.setblocking(False)
        killed.register(listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        waiting = threading.Thread(target=killed.poll)
        waiting.start()
        client = threading.Timer(0.3, send)
        client.start()
        server = direct.DirectServer(listener, loaded, direct.Batches(1, 0), run(time_limit))
        with pytest.raises(messages.FrontendDisconnectedError):
            server.run(connection, disconnect)
        waiting.join(10)
        client.join(10)
    time_limit.disarm()
    assert answers[0].endswith(b"answer")
