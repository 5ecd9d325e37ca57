"""The two request paths of the image: equal answers, and what the direct one does under faults.

The containers have one worker and a limit of LIMIT_S on the time of a response.
"""

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import cases
from tests.container.conftest import (
    HARDENED,
    VERTEX,
    Container,
    container_starter,
    wait_until_healthy,
)
from tests.container.test_storage import mount_options
from tests.http import Response, wait_for
from tests.stock import archive as stock

pytestmark = pytest.mark.xdist_group("direct")
PATHS = ("direct", "torchserve")
LIMIT_S = 3
MAX_REQUESTS = 192
TEXT = {"Content-Type": "text/plain"}
HEALTH, PREDICT = VERTEX["AIP_HEALTH_ROUTE"], VERTEX["AIP_PREDICT_ROUTE"]
HANDLER = Path(stock.HERE) / "commanded_handler.py"
CONFIG = "minWorkers: 1\nmaxWorkers: 1\nbatchSize: 8\nmaxBatchDelay: 0\n"


def format_command(command: str) -> bytes:
    """Return the HTTP request with a command."""
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n"
    return f"{head}Content-Length: {len(command)}\r\n\r\n{command}".encode()


class Model(NamedTuple):
    """A container that serves one model."""

    container: Container

    def tell(self, command: str) -> Response:
        """Send a command to the handler."""
        return self.container.endpoint(9000, PREDICT).post(command.encode(), TEXT)

    def connect(self) -> socket.socket:
        """Open a connection."""
        return socket.create_connection((self.container.address, 9000), 30)

    def begin(self, command: str) -> socket.socket:
        """Send a command on a connection of its own, and return the connection."""
        connection = self.connect()
        connection.sendall(format_command(command))
        return connection


@pytest.fixture(scope="module")
def containers(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Model]]:
    """Start the commanded handler and the toy on both paths, all at once."""
    folder = tmp_path_factory.mktemp("commanded")
    config = tmp_path_factory.mktemp("config") / "model-config.yaml"
    config.write_text(CONFIG)
    stock.pack(folder, HANDLER, f"--config-file={config}")
    limit = {"RESPONSE_TIMEOUT_S": str(LIMIT_S), "AIP_STORAGE_URI": "/mnt/model"}
    with container_starter(image) as start:
        started = {}
        for path in PATHS:
            environ = VERTEX | {"REQUEST_PATH": path}
            options = (*HARDENED, *mount_options(folder))
            started[path] = Model(start(*options, **environ | limit))
            started[f"toy {path}"] = Model(start(*HARDENED, **environ))
        for model in started.values():
            wait_until_healthy(model.container.endpoint(9000, "/"), HEALTH)
        yield started


@pytest.fixture(params=PATHS)
def model(containers: dict[str, Model], request: pytest.FixtureRequest) -> Model:
    """Return the commanded handler on each path in turn."""
    return containers[request.param]


@pytest.fixture
def direct(containers: dict[str, Model]) -> Model:
    """Return the commanded handler on the direct path."""
    return containers["direct"]


def read_response(connection: socket.socket) -> http.client.HTTPResponse:
    """Read the head of a response."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_both_paths_give_the_same_response(containers: dict[str, Model], case: cases.Case) -> None:
    direct, torchserve = (
        containers[f"toy {path}"].container.endpoint(9000, PREDICT).post(case.body, case.headers)
        for path in PATHS
    )
    cases.check_response(case, direct.code, direct.body)
    assert (torchserve.code, torchserve.body) == (direct.code, direct.body)
    assert torchserve.headers["content-type"] == direct.headers["content-type"]


@pytest.mark.parametrize("code", [201, 404, 408, 409, 413, 418, 422, 429, 500, 502, 503, 504, 507])
def test_status_body_and_headers_of_a_handler_are_sent_as_they_are(model: Model, code: int) -> None:
    answer = model.tell(f"status {code}")
    assert (answer.code, answer.body) == (code, f'{{"code": {code}}}')
    assert answer.headers["x-reason"] == "the handler's own"
    assert answer.headers["retry-after"] == "17"
    assert answer.headers["content-type"] == "application/problem+json"


def test_request_without_a_body_and_its_length_reaches_the_handler(model: Model) -> None:
    pid = model.tell("pid").body
    with model.connect() as connection:
        connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        response = read_response(connection)
        assert (response.status, b"not JSON" in response.read()) == (400, True)
    assert model.tell("pid").body == pid


def test_large_and_chunked_bodies_arrive_whole(model: Model) -> None:
    endpoint = model.container.endpoint(9000, PREDICT)
    size = 9_000_000
    body = b"size " + b"x" * size
    for sent in (body, iter([body[:10], body[10:]])):
        answer = endpoint.send("POST", PREDICT, sent, TEXT)
        assert (answer.code, answer.body) == (200, str(size))


def test_abandoned_request_does_not_reach_the_handler(direct: Model) -> None:
    with direct.begin("sleep 1") as busy:
        time.sleep(0.3)
        direct.begin("add marks").close()
        with direct.begin("count marks") as waiting:
            assert read_response(busy).status == 200
            assert read_response(waiting).read() == b"0"


def test_requests_beyond_the_limit_get_429_at_once_and_the_others_are_answered(
    direct: Model,
) -> None:
    with contextlib.ExitStack() as stack:
        # Open before the worker is busy, so that the requests arrive meanwhile.
        others = [stack.enter_context(direct.connect()) for _ in range(MAX_REQUESTS + 8)]
        busy = stack.enter_context(direct.begin("sleep 2"))
        time.sleep(0.3)
        for connection in others:
            connection.sendall(format_command("pid"))
        codes = [read_response(connection).status for connection in others]
        assert read_response(busy).status == 200
    assert (codes.count(429), codes.count(200)) == (9, MAX_REQUESTS - 1)


def test_killed_worker_loses_its_batch_at_once_and_the_next_answers_what_waits(
    direct: Model,
) -> None:
    clients, deadline = 8, time.monotonic() + 30
    pid, answers = direct.tell("pid").body, []

    def send_until_replaced() -> None:
        while time.monotonic() < deadline:
            started = time.monotonic()
            answer = direct.tell("sleep 0.01")
            answers.append((answer.code, time.monotonic() - started))
            if is_killed and answer.code == 200 and direct.tell("pid").body not in ("", pid):
                return

    is_killed: list[bool] = []
    with ThreadPoolExecutor(clients) as pool:
        futures = [pool.submit(send_until_replaced) for _ in range(clients)]
        wait_for(lambda: len(answers) > 3 * clients, 20, "answers before the kill")
        direct.container.kill("model_service_worker")
        is_killed.append(True)
        for future in futures:
            future.result(60)
    failed = [(code, seconds) for code, seconds in answers if code != 200]
    assert {code for code, _ in failed} <= {503}
    assert len(failed) <= clients
    assert max((seconds for _, seconds in failed), default=0) < 2
    assert time.monotonic() < deadline


def test_hanging_handler_gets_a_504_that_names_the_limit_and_its_worker_continues(
    model: Model,
) -> None:
    pid, started = model.tell("pid").body, time.monotonic()
    answer = model.tell("sleep 3600")
    error = json.loads(answer.body)["error"]
    assert (answer.code, error["status"]) == (504, "DEADLINE_EXCEEDED")
    assert f"the limit of {LIMIT_S} s; RESPONSE_TIMEOUT_S sets another" in error["message"]
    assert model.tell("pid").body == pid
    assert time.monotonic() - started < LIMIT_S + 2
    wait_for(lambda: "commanded_handler.py" in model.container.logs(), 10, "the stack in the log")


def test_worker_that_hangs_in_native_code_is_replaced_and_its_stack_is_logged(
    model: Model,
) -> None:
    pid = model.tell("pid").body
    assert model.tell("hang_in_native_code").code == 504
    wait_for(lambda: model.tell("pid").code == 200, 20, "another worker")
    assert model.tell("pid").body != pid
    log = model.container.logs()
    assert "Timeout (0:00:" in log
    assert "_run" in log.partition("Timeout (0:00:")[2]


def test_worker_whose_gpu_is_broken_is_replaced_after_its_response(model: Model) -> None:
    pid = model.tell("pid").body
    assert model.tell("break_device").body == "broken"
    wait_for(lambda: model.tell("pid").body not in ("", pid), 20, "another worker")
    assert "the GPU is broken for this process, which is replaced" in model.container.logs()


def test_idle_workers_outlive_the_limit(containers: dict[str, Model]) -> None:
    models = [containers[path] for path in PATHS]
    pids = [model.tell("pid").body for model in models]
    time.sleep(LIMIT_S + 3)
    assert [model.tell("pid").body for model in models] == pids


def test_slow_reader_of_a_large_response_does_not_hold_the_worker(direct: Model) -> None:
    size = 10_000_000
    with direct.begin(f"large {size}") as slow:
        response = read_response(slow)
        started = time.monotonic()
        assert direct.tell("pid").code == 200
        assert time.monotonic() - started < 5
        assert len(response.read()) == size


def test_slow_reader_of_a_stream_does_not_hold_the_worker(direct: Model) -> None:
    pid = direct.tell("pid").body
    with direct.begin("stream_endlessly") as slow:
        response = read_response(slow)
        started = time.monotonic()
        while time.monotonic() - started < LIMIT_S + 3:  # a stream that waits is not a hanging one
            assert direct.tell("pid").body == pid
            time.sleep(0.2)
        assert response.read(1 << 20) == b"x" * (1 << 20)


def test_parts_of_a_stream_are_sent_as_they_are_made(direct: Model) -> None:
    with direct.begin("stream_two_parts") as connection:
        response = read_response(connection)
        assert response.headers["Transfer-Encoding"] == "chunked"
        assert response.read(5) == b"first"
        assert direct.tell("add releases").code == 200
        assert response.read() == b"second"


def test_client_that_leaves_ends_the_stream(direct: Model) -> None:
    before = int(direct.tell("count closed").body)
    with direct.begin("stream_endlessly") as connection:
        assert read_response(connection).read(5) == b"xxxxx"
    wait_for(
        lambda: int(direct.tell("count closed").body) == before + 1, 10, "the end of the generator"
    )


def test_stream_of_a_killed_worker_ends_as_an_incomplete_response(direct: Model) -> None:
    with direct.begin("stream_endlessly") as connection:
        response = read_response(connection)
        assert response.read(5) == b"xxxxx"
        direct.container.kill("model_service_worker")
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            response.read()
    wait_for(lambda: direct.tell("pid").code == 200, 20, "another worker")


def test_intermediate_response_of_a_stock_handler_is_sent_before_its_end(model: Model) -> None:
    with model.begin("send_intermediate") as connection:
        response = read_response(connection)
        assert response.read(5) == b"first"
        model.container.exec("touch", "/tmp/release")
        assert response.read() == b"last"
