"""The image: contents, ports, startup, limits and shutdown."""

import concurrent.futures
import contextlib
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPResponse, RemoteDisconnected
from pathlib import Path

import pytest

from contract.docker import DockerError
from tests import cases
from tests.container.conftest import (
    DOCKER,
    HARDENED,
    VERTEX,
    Container,
    Start,
    container_starter,
    docker,
    wait_until_healthy,
)
from tests.http import Endpoint, send_concurrently, wait_for
from tests.images import ARCHIVE, ROOT, TOY, labelled_images, request_body
from tests.programs import run_program
from tests.stock.archive import changed

pytestmark = pytest.mark.xdist_group("container")


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_response_is_the_wire_contracts(endpoint: Endpoint, case: cases.Case) -> None:
    answer = endpoint.post(case.body, case.headers)
    cases.check_response(case, answer.code, answer.body)
    assert answer.headers["content-type"] == case.response_type


def test_requests_beyond_capacity_get_429_and_the_others_are_answered(
    endpoint: Endpoint,
) -> None:
    body = request_body(*[base64 for base64, _ in labelled_images(20)])
    answers = [
        answer
        for client in send_concurrently(endpoint, [body] * 300, rounds=4)
        for answer in client
    ]
    refused = [answer for answer in answers if answer.code != 200]
    assert {answer.code for answer in refused} == {429}
    assert len(answers) - len(refused) > 200
    for answer in refused:
        assert answer.headers["retry-after"] == "1"
        assert json.loads(answer.body)["error"]["status"] == "RESOURCE_EXHAUSTED"
    assert endpoint.send("GET", HEALTH).code == 200


HEALTH, PREDICT = VERTEX["AIP_HEALTH_ROUTE"], VERTEX["AIP_PREDICT_ROUTE"]
OTHER_ROUTES = [
    ("GET", "/", 404),
    ("GET", "/ping", 404),
    ("OPTIONS", "/", 404),
    ("GET", "/models", 404),
    ("POST", "/models?url=http://x/y.mar", 404),
    ("GET", "/metrics", 404),
    ("POST", "/workflows", 404),
    ("POST", "/predictions/toy", 404),
    ("GET", "/api-description", 404),
    ("GET", f"{HEALTH}/", 404),
    ("GET", f"{HEALTH}/../models", 404),
    ("GET", PREDICT, 405),
    ("DELETE", PREDICT, 405),
    ("POST", HEALTH, 405),
]


@pytest.mark.parametrize(("method", "path", "code"), OTHER_ROUTES)
def test_only_the_health_and_the_predict_route_exist(
    endpoint: Endpoint, method: str, path: str, code: int
) -> None:
    answer = endpoint.send(method, path)
    assert answer.code == code
    error = json.loads(answer.body)["error"]
    assert error["code"] == code
    assert f"POST {PREDICT}" in error["message"]
    assert "torchserve" not in answer.body.lower()


def test_body_larger_than_the_limit_gets_413(endpoint: Endpoint) -> None:
    body = request_body(cases.INSTANCE).ljust(10 << 20)
    assert endpoint.post(body).code == 200
    answer = endpoint.post(body + b" ")
    assert answer.code == 413
    assert "limit of 10485760 bytes" in json.loads(answer.body)["error"]["message"]


def test_wrong_content_type_gets_415_and_a_missing_one_is_accepted(
    endpoint: Endpoint,
) -> None:
    answer = endpoint.post(request_body(cases.INSTANCE), {"Content-Type": "text/plain"})
    assert answer.code == 415
    assert "application/json" in json.loads(answer.body)["error"]["message"]
    assert endpoint.post(request_body(cases.INSTANCE), headers={}).code == 200


INVALID_HTTP = {
    "no host": "POST /p HTTP/1.1\r\n\r\n",
    "no HTTP": "HELLO\r\n\r\n",
    "HTTP/3.0": "POST /p HTTP/3.0\r\nHost: x\r\n\r\n",
    "CONNECT": "CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "Transfer-Encoding: gzip": "POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
    "Content-Length: -5": "POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    "a long path": f"GET /{'a' * 20_000} HTTP/1.1\r\nHost: x\r\n\r\n",
    "long headers": f"GET /p HTTP/1.1\r\nHost: x\r\nX: {'a' * 40_000}\r\n\r\n",
    "out of the root": "GET /../x HTTP/1.1\r\nHost: x\r\n\r\n",
    "a condition": f"GET {VERTEX['AIP_HEALTH_ROUTE']} HTTP/1.1\r\nHost: x\r\nIf-Match: y\r\n\r\n",
}


@pytest.mark.parametrize("text", INVALID_HTTP.values(), ids=INVALID_HTTP.keys())
def test_invalid_http_gets_a_400_in_googles_format(vertex: Container, text: str) -> None:
    with socket.create_connection((vertex.address, 9000), 10) as client:
        client.sendall(text.encode())
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(65536), b"")).decode()
    assert answer.startswith("HTTP/1.1 400 ")
    error = json.loads(answer.partition("\r\n\r\n")[2])["error"]
    assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")


def test_image_runs_as_a_numeric_user_and_contains_no_build_tools(
    vertex: Container, image: str
) -> None:
    assert docker("inspect", "--format", "{{.Config.User}}", image).strip() == "10001"
    tools = "pip pip3 gcc cc javac jlink torch-model-archiver curl"
    find_tools = (
        f'for t in {tools}; do command -v "$t" "/opt/venv/bin/$t"; done; find /app -name "*test*"'
    )
    assert not vertex.exec("sh", "-c", find_tools)


def test_only_nginx_listens_on_a_tcp_port(vertex: Container) -> None:
    listening = [
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in vertex.exec("cat", f"/proc/net/{table}").splitlines()[1:]
        if line.split()[3] == "0A"
    ]
    assert [int(address.rpartition(":")[2], 16) for address in listening] == [9000]


def test_jar_contains_no_library_that_debian_maintains(vertex: Container) -> None:
    listed = vertex.exec(
        "/opt/venv/bin/python", "-m", "zipfile", "-l", "/opt/torchserve/model-server.jar"
    )
    packages = {
        "/".join(name.split("/")[:2]) for name in re.findall(r"^(\S+)\.class", listed, re.M)
    }
    assert packages == {
        "org/pytorch",
        "org/slf4j",
        "org/apache",
        "org/yaml",
        "io/prometheus",
        "com/google",
    }
    assert "com/google/protobuf" not in listed
    assert "log4j/core" not in listed
    # A link to Debian's file, which apt upgrades.
    linked = vertex.exec("readlink", "-f", "/opt/torchserve/netty-handler.jar").strip()
    assert "libnetty-java" in vertex.exec("dpkg", "-S", linked)


@pytest.mark.full
def test_image_built_without_patches_gives_the_same_predictions_by_torchserve_as_released(
    image: str, endpoint: Endpoint
) -> None:
    stock = f"{image}-without-patches"
    build = ["make", "build", f"IMAGE={stock}", f"DOCKER={DOCKER}", "TORCHSERVE_PATCHES=off"]
    done = run_program(build, cwd=ROOT, timeout_s=900)
    assert done.code == 0, done.err[-3000:]
    body = request_body(cases.SEVEN, top_k=1)
    try:
        with container_starter(stock) as start:
            container = start(*HARDENED, **VERTEX)
            released = container.endpoint(9000, VERTEX["AIP_PREDICT_ROUTE"])
            wait_until_healthy(released, VERTEX["AIP_HEALTH_ROUTE"])
            assert released.post(body).body == endpoint.post(body).body
            assert "patches off" in container.logs()
            (jar,) = container.exec("sh", "-c", "ls /opt/torchserve/*.jar").split()
            assert jar.endswith("model-server.jar")
    finally:
        docker("image", "rm", "--force", stock)


def test_sbom_in_the_image_lists_its_packages(vertex: Container) -> None:
    listed = json.loads(vertex.exec("cat", "/sbom/sbom.cdx.json"))
    components = {(item["name"], item.get("version")) for item in listed["components"]}
    for line in vertex.exec(
        "dpkg-query", "--show", "--showformat", "${Package} ${Version}\\n"
    ).splitlines():
        assert tuple(line.split()) in components
    list_packages = (
        "import importlib.metadata as m\nfor d in m.distributions(): print(d.name, d.version)"
    )
    for line in vertex.exec("/opt/venv/bin/python", "-c", list_packages).splitlines():
        name, version = line.split()
        assert version in {
            v
            for n, v in components
            if n.lower().replace("_", "-") == name.lower().replace("_", "-")
        }
    assert {name for name, _ in components} >= {
        "netty-handler",
        "log4j-core",
        "openjdk",
        "model-server",
    }


def test_image_has_labels_for_its_origin_and_a_license(image: str) -> None:
    config = json.loads(docker("inspect", "--format", "{{json .Config}}", image))
    labels = {
        name.removeprefix("org.opencontainers.image."): text
        for name, text in config["Labels"].items()
    }
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?", labels["revision"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", labels["created"])
    assert labels["base.name"]
    assert labels["licenses"] == "Apache-2.0"
    text = docker("run", "--rm", "--entrypoint", "cat", image, "/app/LICENSE", "/app/NOTICE")
    assert "Apache License" in text
    assert "serving/bytecode_patches.py" in text


@pytest.fixture(scope="module")
def short_lived(image: str) -> Iterator[tuple[Container, list[int]]]:
    """Start a container; yield it and the status codes of its health route up to the first 200."""
    with container_starter(image) as start:
        container, codes = start(*HARDENED, **VERTEX), list[int]()
        ready = container.endpoint(9000, "/")

        def healthy() -> bool:
            with contextlib.suppress(OSError):
                codes.append(ready.send("GET", HEALTH).code)
                return codes[-1] == 200
            assert not codes, "the port closed again"
            return False

        wait_for(healthy, 60, "a healthy container")
        yield container, codes


def test_port_opens_at_once_and_health_is_503_until_the_model_is_ready(
    short_lived: tuple[Container, list[int]],
) -> None:
    container, codes = short_lived
    assert set(codes) == {503, 200}
    answer = container.endpoint(9000, PREDICT).post(cases.CASES[0].body)
    cases.check_response(cases.CASES[0], answer.code, answer.body)


def test_sigterm_turns_health_to_503_and_accepted_requests_are_answered(
    short_lived: tuple[Container, list[int]],
) -> None:
    container, _ = short_lived
    endpoint = container.endpoint(9000, PREDICT)
    body, stopping, answers = (
        request_body(cases.INSTANCE),
        threading.Event(),
        Counter[tuple[bool, int]](),
    )

    def client() -> None:
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            after = stopping.is_set()
            try:
                answers[after, endpoint.post(body).code] += 1
            except RemoteDisconnected:  # it was accepted and not answered
                raise
            except (ConnectionRefusedError, ConnectionResetError):
                return  # it was not accepted

    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with (
        socket.create_connection((container.address, 9000), 60) as in_flight,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        in_flight.sendall(head.encode() + body[:-1])
        clients = [pool.submit(client) for _ in range(8)]
        wait_for(lambda: answers[False, 200] > 100, 30, "answers before the stop")
        docker("kill", "--signal", "TERM", container.name)
        stopping.set()
        wait_for(lambda: endpoint.send("GET", HEALTH).code == 503, 4, "503 from health")
        for future in clients:
            future.result(30)
        # The port is closed by now; a request in flight is still answered.
        in_flight.sendall(body[-1:])
        response = HTTPResponse(in_flight)
        response.begin()
        assert response.status == 200
    assert container.wait_until_ended(20) == 0
    assert {code for _, code in answers} == {200}
    assert answers[True, 200] > 100


@pytest.mark.full
def test_slow_clients_do_not_block_others_and_time_out(
    endpoint: Endpoint, vertex: Container
) -> None:
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
    address, slow = (vertex.address, 9000), []
    try:
        for index in range(400):
            # Each sends at once: on a busy machine the last may connect after the first one's deadline.
            slow.append(socket.create_connection(address, 30))
            slow[-1].sendall((head if index % 2 else f'{head}\r\n{{"instances": [').encode())
        for answers in send_concurrently(endpoint, [request_body(cases.INSTANCE)] * 8, rounds=20):
            assert {answer.code for answer in answers} == {200}
        # An incomplete header closes the connection; an incomplete body gets a 408.
        with contextlib.suppress(ConnectionResetError):
            assert slow[1].recv(1) == b""
        slow[0].settimeout(40)
        answer = b"".join(iter(lambda: slow[0].recv(65536), b"")).decode()
        assert answer.startswith("HTTP/1.1 408 "), vertex.logs(tail=20)
        error = json.loads(answer.partition("\r\n\r\n")[2])["error"]
        assert error["status"] == "DEADLINE_EXCEEDED"
    finally:
        for client in slow:
            client.close()


@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_body_in_several_segments_is_read_whole(vertex: Container, pieces: int) -> None:
    body = request_body(*[base64 for base64, _ in labelled_images(50)])
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((vertex.address, 9000), 10) as client:
        for _ in range(2):  # the connection is kept
            client.sendall(head.encode())
            for start in range(0, len(body), len(body) // pieces + 1):
                time.sleep(0.05)
                client.sendall(body[start : start + len(body) // pieces + 1])
            response = HTTPResponse(client)
            response.begin()
            assert response.status == 200
            assert len(json.loads(response.read())["predictions"]) == 50


def test_chunked_body_is_accepted(endpoint: Endpoint) -> None:
    body = request_body(cases.INSTANCE)
    assert endpoint.send("POST", PREDICT, iter([body[:50], body[50:]])).code == 200


def test_invalid_requests_do_not_raise_memory_use_or_restart_workers(
    endpoint: Endpoint, vertex: Container
) -> None:
    before = vertex.workers()
    bad = [case.body for case in cases.CASES if case.code == 400]
    sizes = []
    for _ in range(6):
        send_concurrently(endpoint, bad, rounds=3)
        sizes.append(sum(vertex.processes().values()))
    assert vertex.workers() == before
    # The first rounds fill caches and pools.
    assert max(sizes[3:]) < 1.1 * sizes[2], sizes


def test_model_that_cannot_be_loaded_ends_the_container_with_the_reason(
    start: Start, tmp_path: Path
) -> None:
    weights = (TOY / "weights.safetensors").read_bytes()[:50]
    changed(ARCHIVE, tmp_path / "toy.mar", "weights.safetensors", weights).chmod(0o644)
    tmp_path.chmod(0o755)
    container = start("--volume", f"{tmp_path}:/opt/model-store:ro", **VERTEX)
    assert container.wait_until_ended(120) == 1
    reason = "cannot serve: the model cannot be loaded: SafetensorError: "
    assert container.last_message().startswith(reason)


@pytest.mark.full
@pytest.mark.parametrize("file", ["model.py", "vertex_handler.py"])
def test_missing_package_is_named_in_the_last_line(start: Start, tmp_path: Path, file: str) -> None:
    changed(ARCHIVE, tmp_path / "toy.mar", file, b"import not_installed").chmod(0o644)
    tmp_path.chmod(0o755)
    container = start("--volume", f"{tmp_path}:/opt/model-store:ro", **VERTEX)
    assert container.wait_until_ended(120) == 1
    error = "ModuleNotFoundError: No module named 'not_installed'"
    assert container.last_message() == f"cannot serve: the model cannot be loaded: {error}"


def test_unreadable_folder_is_an_error_with_the_fix(vertex: Container) -> None:
    with pytest.raises(DockerError, match="/root: permission denied for user 10001; run chmod"):
        vertex.exec("/opt/venv/bin/python", "-m", "storage", "/root", "/tmp/copy")


@pytest.mark.full
def test_container_that_runs_out_of_memory_ends_with_that_reason(start: Start) -> None:
    container = start("--memory", "250m", "--memory-swap", "250m", **VERTEX)
    assert container.wait_until_ended(180) == 1
    assert re.search(
        r"; \d+ process(es were| was) killed \(out of memory; the limit is 250 MiB\)$",
        container.last_message(),
    )


@pytest.mark.full
@pytest.mark.parametrize("victim", ["org.pytorch.serve.ModelServer", "nginx: master"])
def test_container_ends_with_the_reason_if_torchserve_or_nginx_is_killed(
    start: Start, victim: str
) -> None:
    container = start(**VERTEX)
    wait_until_healthy(container.endpoint(9000, "/"), HEALTH)
    container.kill(victim)
    assert container.wait_until_ended(30) == 1
    assert re.search(
        "^cannot serve: (TorchServe|nginx) was killed by SIGKILL$", container.last_message()
    )


def test_by_default_only_5xx_is_logged_and_no_telemetry_runs(
    endpoint: Endpoint, vertex: Container
) -> None:
    assert endpoint.post(request_body(cases.INSTANCE)).code == 200
    assert endpoint.post(b"{}").code == 400
    logged = [line["httpRequest"]["status"] for line in vertex.log_lines() if "httpRequest" in line]
    assert not [status for status in logged if status < 500]
    assert not vertex.processes("telemetry")
