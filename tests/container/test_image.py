"""The image: what is in it, what it opens, how it starts and how it ends."""

import concurrent.futures
import contextlib
import json
import re
import socket
import threading
import time
from http.client import HTTPConnection, HTTPResponse, RemoteDisconnected
from pathlib import Path

import pytest

from tests import wire
from tests.container.conftest import HARDENED, VERTEX, Container, Start, docker, wait_until_healthy
from tests.http import Answer, Endpoint, crowd, wait_for
from tests.pictures import ROOT, held_out, request


@pytest.mark.parametrize("case", wire.CASES, ids=lambda case: case.name)
def test_the_image_keeps_the_wire_contract(endpoint: Endpoint, case: wire.Case) -> None:
    answer = endpoint.post(case.body)
    wire.check(case, answer.code, answer.body)
    assert answer.headers["content-type"] == "application/json"


def test_fifteen_clients_never_see_the_sixteenth_s_garbage(
    vertex: Container, endpoint: Endpoint
) -> None:
    before = workers(vertex)
    garbage = b'{"instances": [{"b64": "!!"}]}'
    good = [request(base64) for base64, _ in held_out(15)]
    *answered, refused = crowd(endpoint, [*good, garbage], rounds=20)
    assert {answer.code for answers in answered for answer in answers} == {200}
    assert {answer.code for answer in refused} == {400}
    assert workers(vertex) == before


def workers(container: Container) -> list[str]:
    """Return the process ids of the workers."""
    listed = docker("top", container.name, "-eo", "pid,args").splitlines()
    found = [line.split()[0] for line in listed if "model_service_worker" in line]
    assert found
    return found


def test_requests_without_a_content_type_are_taken_as_raw_predict_sends_them(
    endpoint: Endpoint,
) -> None:
    assert endpoint.post(request(wire.INSTANCE), headers={}).code == 200


def test_past_capacity_a_client_hears_so_at_once_and_the_others_are_answered(
    endpoint: Endpoint,
) -> None:
    body = request(*[base64 for base64, _ in held_out(20)])
    answers = [answer for client in crowd(endpoint, [body] * 300, rounds=4) for answer in client]
    refused = [answer for answer in answers if answer.code != 200]
    assert {answer.code for answer in refused} == {429}
    assert len(answers) - len(refused) > 200
    for answer in refused:
        assert answer.headers["retry-after"] == "1"
        assert json.loads(answer.body)["error"]["status"] == "RESOURCE_EXHAUSTED"
    assert endpoint.send("GET", HEALTH).code == 200


HEALTH, PREDICT = VERTEX["AIP_HEALTH_ROUTE"], VERTEX["AIP_PREDICT_ROUTE"]
OUTSIDE = [
    ("GET", "/", 404),
    ("GET", "/ping", 404),
    ("OPTIONS", "/", 404),
    ("GET", "/models", 404),
    ("POST", "/models?url=http://x/y.mar", 404),
    ("GET", "/metrics", 404),
    ("POST", "/workflows", 404),
    ("POST", "/predictions/digits", 404),
    ("GET", "/api-description", 404),
    ("GET", f"{HEALTH}/", 404),
    ("GET", f"{HEALTH}/../models", 404),
    ("GET", PREDICT, 405),
    ("DELETE", PREDICT, 405),
    ("POST", HEALTH, 405),
]


@pytest.mark.parametrize(("method", "path", "code"), OUTSIDE)
def test_only_two_doors_open(endpoint: Endpoint, method: str, path: str, code: int) -> None:
    answer = endpoint.send(method, path)
    assert answer.code == code
    error = json.loads(answer.body)["error"]
    assert error["code"] == code
    assert f"POST {PREDICT}" in error["message"]
    assert "torchserve" not in answer.body.lower()


def test_only_one_port_is_open(vertex: Container) -> None:
    for port in (7070, 7071, 8080, 8081, 8082, 9001):
        with socket.socket() as probe:
            probe.settimeout(2)
            assert probe.connect_ex((vertex.address(), port)) != 0, port


def test_a_body_beyond_the_limit_is_a_413_that_names_it(endpoint: Endpoint) -> None:
    answer = endpoint.post(b" " * (10 * (1 << 20) + 1))
    assert answer.code == 413
    assert "limit of 10485760 bytes" in json.loads(answer.body)["error"]["message"]


def test_a_body_just_below_the_limit_reaches_the_handler(endpoint: Endpoint) -> None:
    body = request(wire.INSTANCE)
    answer = endpoint.post(body + b" " * (10 * (1 << 20) - len(body)))
    assert answer.code == 200, answer.body


def test_a_wrong_content_type_is_a_415(endpoint: Endpoint) -> None:
    answer = endpoint.post(request(wire.INSTANCE), {"Content-Type": "text/plain"})
    assert answer.code == 415
    assert "application/json" in json.loads(answer.body)["error"]["message"]


UNREADABLE = {
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


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_is_no_http_gets_a_400_of_google_s_shape(vertex: Container, text: str) -> None:
    with socket.create_connection((vertex.address(), 9000), 10) as client:
        client.sendall(text.encode())
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(65536), b"")).decode()
    assert answer.startswith("HTTP/1.1 400 ")
    error = json.loads(answer.partition("\r\n\r\n")[2])["error"]
    assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")


def test_it_runs_as_a_numbered_user_and_carries_no_tools(vertex: Container, image: str) -> None:
    assert docker("inspect", "--format", "{{.Config.User}}", image).strip() == "10001"
    for tool in ("pip", "pip3", "gcc", "cc", "javac", "jlink", "torch-model-archiver", "curl"):
        found = vertex.run("sh", "-c", f"command -v {tool} /opt/venv/bin/{tool} || true")
        assert not found.strip(), found
    found = vertex.run("find", "/app", "-name", "*test*")
    assert not found.strip(), found


def test_nothing_in_it_listens_but_the_front_door(vertex: Container) -> None:
    listening = [
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in vertex.run("cat", f"/proc/net/{table}").splitlines()[1:]
        if line.split()[3] == "0A"
    ]
    assert [int(address.rpartition(":")[2], 16) for address in listening] == [9000]


def test_no_library_of_the_old_jar_is_left_that_debian_maintains(vertex: Container) -> None:
    listed = vertex.run(
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
    # Under Debian's names: what apt upgrades there is what runs.
    linked = vertex.run("readlink", "-f", "/opt/torchserve/netty-handler.jar").strip()
    assert "libnetty-java" in vertex.run("dpkg", "-S", linked)


def test_what_it_consists_of_is_listed_in_it(vertex: Container) -> None:
    listed = json.loads(vertex.run("cat", "/sbom/sbom.cdx.json"))
    there = {(one["name"], one.get("version")) for one in listed["components"]}
    for line in vertex.run(
        "dpkg-query", "--show", "--showformat", "${Package} ${Version}\\n"
    ).splitlines():
        assert tuple(line.split()) in there
    found = "import importlib.metadata as m\nfor d in m.distributions(): print(d.name, d.version)"
    for line in vertex.run("/opt/venv/bin/python", "-c", found).splitlines():
        name, version = line.split()
        assert version in {
            v for n, v in there if n.lower().replace("_", "-") == name.lower().replace("_", "-")
        }
    assert {name for name, _ in there} >= {"netty-handler", "log4j-core", "openjdk", "model-server"}


def test_the_vex_speaks_of_what_is_in_it(vertex: Container) -> None:
    listed = json.loads(vertex.run("cat", "/sbom/sbom.cdx.json"))
    there = {
        each.get("purl", "").partition("?")[0].rpartition("/")[2] for each in listed["components"]
    }
    statements = json.loads((ROOT / "docker" / "vex.openvex.json").read_text())["statements"]
    named = {
        part["@id"].rpartition("/")[2]
        for each in statements
        for product in each["products"]
        for part in product["subcomponents"]
    }
    assert named <= there
    # And of every library of Java's that a scanner knows by its version.
    debians = {
        each for each in there if each.startswith(("netty-", "log4j-core", "commons-compress"))
    }
    assert debians <= named


def test_it_says_where_it_comes_from(image: str) -> None:
    labels = json.loads(docker("inspect", "--format", "{{json .Config.Labels}}", image))
    said = {name.removeprefix("org.opencontainers.image."): text for name, text in labels.items()}
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?", said["revision"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", said["created"])
    assert said["base.name"]


def test_the_image_sets_no_aip_variable(image: str) -> None:
    assert "AIP_" not in docker("inspect", "--format", "{{.Config.Env}}", image)


def test_the_port_is_open_at_once_and_health_is_503_until_the_model_answers(start: Start) -> None:
    container = start(**VERTEX)
    seen: list[Answer] = []
    deadline = time.monotonic() + 60
    while not seen or seen[-1].code != 200:
        assert time.monotonic() < deadline, container.logs()
        try:
            answer = container.endpoint(9000, "/").send("GET", HEALTH)
        except OSError:
            assert not seen, "the port closed again"
            continue
        seen.append(answer)
        if answer.code == 200:
            predicted = container.endpoint(9000, PREDICT).post(wire.CASES[0].body)
            wire.check(wire.CASES[0], predicted.code, predicted.body)
    assert {answer.code for answer in seen} == {503, 200}


def test_the_published_port_and_route_work_and_a_stop_answers_what_is_under_way(
    start: Start,
) -> None:
    container = start(*HARDENED, AIP_HTTP_PORT="9000", AIP_PREDICT_ROUTE="/predictions/digits")
    endpoint = container.endpoint(9000, "/predictions/digits")
    wait_until_healthy(endpoint, "/ping")
    big = request(*[base64 for base64, _ in held_out(50)] * 54)
    answers: list[Answer] = []
    client = threading.Thread(target=lambda: answers.append(endpoint.post(big)))
    client.start()
    time.sleep(0.3)
    docker("stop", "--time", "30", container.name)
    client.join(60)
    assert [answer.code for answer in answers] == [200]
    assert container.state("ExitCode") == "0", container.logs()


def test_told_to_stop_its_health_says_so_while_what_comes_is_still_answered(start: Start) -> None:
    container = start(*HARDENED, **VERTEX)
    endpoint = container.endpoint(9000, PREDICT)
    wait_until_healthy(endpoint, HEALTH)
    body, answers, told = request(wire.INSTANCE), [], threading.Event()

    def client() -> None:
        while True:
            try:
                answer = endpoint.post(body)
            except RemoteDisconnected:  # it was taken and not answered
                raise
            except (ConnectionRefusedError, ConnectionResetError):
                return  # it was not taken
            if told.is_set():
                answers.append(answer.code)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client) for _ in range(8)]
        time.sleep(0.5)
        began = time.monotonic()
        docker("kill", "--signal", "TERM", container.name)
        told.set()
        time.sleep(0.5)
        assert endpoint.send("GET", HEALTH).code == 503
        for future in clients:
            future.result(60)
    assert container.wait_until_ended(30) == 0
    assert time.monotonic() - began < 30
    assert set(answers) == {200}
    assert len(answers) > 100


def test_slow_clients_keep_nobody_out_and_are_cut_off(
    endpoint: Endpoint, vertex: Container
) -> None:
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
    address, slow = (vertex.address(), 9000), []
    try:
        for index in range(400):
            # Each sends at once: on a busy machine the last may come after the first one's deadline.
            slow.append(socket.create_connection(address, 30))
            slow[-1].sendall((head if index % 2 else f'{head}\r\n{{"instances": [').encode())
        for answers in crowd(endpoint, [request(wire.INSTANCE)] * 8, rounds=20):
            assert {answer.code for answer in answers} == {200}
        # Who does not finish its headers is cut off, who does not finish its body is told.
        with contextlib.suppress(ConnectionResetError):
            assert slow[1].recv(1) == b""
        slow[0].settimeout(40)
        answer = b"".join(iter(lambda: slow[0].recv(65536), b"")).decode()
        assert answer.startswith("HTTP/1.1 408 "), vertex.logs()[-2000:]
        error = json.loads(answer.partition("\r\n\r\n")[2])["error"]
        assert error["status"] == "DEADLINE_EXCEEDED"
    finally:
        for client in slow:
            client.close()


@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_a_body_that_comes_in_pieces_is_put_together(vertex: Container, pieces: int) -> None:
    body = request(*[base64 for base64, _ in held_out(50)])
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((vertex.address(), 9000), 10) as client:
        for _ in range(2):  # the connection is kept
            client.sendall(head.encode())
            for start in range(0, len(body), len(body) // pieces + 1):
                time.sleep(0.05)
                client.sendall(body[start : start + len(body) // pieces + 1])
            response = HTTPResponse(client)
            response.begin()
            assert response.status == 200
            assert len(json.loads(response.read())["predictions"]) == 50


def test_a_body_in_chunks_is_taken_too(vertex: Container) -> None:
    connection = HTTPConnection(vertex.address(), 9000, timeout=10)
    body = request(wire.INSTANCE)
    connection.request(
        "POST",
        PREDICT,
        iter([body[:50], body[50:]]),
        {"Transfer-Encoding": "chunked"},
        encode_chunked=True,
    )
    assert connection.getresponse().status == 200
    connection.close()


def test_bad_input_makes_nothing_grow(endpoint: Endpoint, vertex: Container) -> None:
    before = workers(vertex)
    bad = [case.body for case in wire.CASES if case.code == 400]
    sizes = []
    for _ in range(6):
        crowd(endpoint, bad, rounds=3)
        sizes.append(sum(resident(vertex)))
    assert workers(vertex) == before
    # The first rounds fill caches and pools; then it stays as it is.
    assert max(sizes[3:]) < 1.1 * sizes[2], sizes


def resident(container: Container) -> list[int]:
    """Return the resident memory of its processes in KiB."""
    listed = docker("top", container.name, "-eo", "pid,rss,args").splitlines()[1:]
    return [int(line.split()[1]) for line in listed]


def test_a_model_that_cannot_be_loaded_ends_the_container_within_a_minute_with_the_reason(
    start: Start, broken_archive: str
) -> None:
    folder = Path(broken_archive).parent
    folder.chmod(0o755)
    container = start("--volume", f"{folder}:/opt/model-store:ro", **VERTEX)
    assert container.wait_until_ended(60) == 1
    assert re.search(
        r"^cannot serve: the model cannot be loaded: BadWeights: weights\.safetensors",
        container.last_word(),
    )


def test_an_archive_that_is_not_the_one_baked_in_is_refused_before_it_is_read(
    start: Start, broken_archive: str
) -> None:
    container = start("--volume", f"{broken_archive}:/opt/model-store/digits.mar:ro", **VERTEX)
    assert container.wait_until_ended(30) == 1
    assert re.search(
        r"^cannot serve: digits\.mar: its SHA-256 is [0-9a-f]{64}, digits\.mar\.sha256 says",
        container.last_word(),
    )


def test_a_file_that_is_no_archive_ends_the_container_with_the_reason(start: Start) -> None:
    container = start("--volume", "/etc/hostname:/srv/digits.mar:ro", **VERTEX, MODEL_STORE="/srv")
    assert container.wait_until_ended(30) == 1
    assert "cannot serve: /srv/digits.mar is no archive" in container.last_word()


def test_without_the_memory_for_it_the_container_ends_and_says_so(start: Start) -> None:
    container = start("--memory", "250m", "--memory-swap", "250m", **VERTEX)
    assert container.wait_until_ended(180) == 1
    assert re.search(r"for want of memory: \d+ \(limit 250 MiB\)$", container.last_word())


def test_without_a_folder_to_write_to_the_container_ends_and_says_what_to_mount(
    start: Start,
) -> None:
    container = start("--read-only", **VERTEX)
    assert container.wait_until_ended(30) == 1
    assert "cannot serve: no folder to write to, mount one with --tmpfs" in container.last_word()


def test_a_variable_that_cannot_be_followed_ends_the_container_with_its_name(start: Start) -> None:
    container = start(**VERTEX | {"AIP_HTTP_PORT": "http"})
    assert container.wait_until_ended(30) == 1
    assert "cannot serve: AIP_HTTP_PORT=http: expected a whole number" in container.last_word()


@pytest.mark.parametrize("victim", ["org.pytorch.serve.ModelServer", "nginx: master"])
def test_without_its_java_or_its_nginx_the_container_ends_and_says_so(
    start: Start, victim: str
) -> None:
    container = start(**VERTEX)
    wait_until_healthy(container.endpoint(9000, "/"), HEALTH)
    container.kill(victim)
    assert container.wait_until_ended(30) == 1
    assert re.search(
        "^cannot serve: (TorchServe|nginx) was ended by SIGKILL$", container.last_word()
    )


@pytest.mark.parametrize(
    "header",
    [
        ("X-Cloud-Trace-Context", f"{'5f' * 16}/123;o=1"),
        ("traceparent", f"00-{'5f' * 16}-00f067aa0ba902b7-01"),
    ],
)
def test_a_request_s_line_has_its_id_and_its_trace_and_nothing_of_its_body(
    start: Start, header: tuple[str, str]
) -> None:
    where = {"AIP_PROJECT_NUMBER": "123", "AIP_ENDPOINT_ID": "77", "AIP_DEPLOYED_MODEL_ID": "9"}
    container = start(*HARDENED, **VERTEX | where, ACCESS_LOG="all")
    wait_until_healthy(container.endpoint(9000, "/"), VERTEX["AIP_HEALTH_ROUTE"])
    endpoint = container.endpoint(9000, VERTEX["AIP_PREDICT_ROUTE"])
    kinds = {"Content-Type": "application/json"} | dict([header])
    answer = endpoint.send("POST", VERTEX["AIP_PREDICT_ROUTE"], request(wire.INSTANCE), kinds)
    wait_for(lambda: "httpRequest" in container.logs(), 10, "the request's line")
    line = next(line for line in container.said() if "httpRequest" in line)
    assert line["requests"] == [answer.headers["x-request-id"]]
    assert line["logging.googleapis.com/trace"] == f"projects/123/traces/{'5f' * 16}"
    labels = {"endpoint_id": "77", "deployed_model_id": "9", "process": "front"}
    assert line["logging.googleapis.com/labels"] == labels
    assert (line["severity"], line["httpRequest"]["status"]) == ("INFO", 200)
    assert wire.INSTANCE["b64"][:40] not in container.logs()


def test_a_request_that_cannot_be_read_is_told_of_as_it_came_in_universal_time(
    start: Start,
) -> None:
    container = start(*HARDENED, **VERTEX, ACCESS_LOG="all", TZ="EST5")
    wait_until_healthy(container.endpoint(9000, "/"), HEALTH)
    with socket.create_connection((container.address(), 9000), 10) as client:
        client.sendall(
            f"POST {PREDICT}?secret HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n".encode()
        )
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")
    wait_for(lambda: "httpRequest" in container.logs(), 10, "the request's line")
    line = next(line for line in container.said() if "httpRequest" in line)
    assert line["message"] == f"POST {PREDICT} 400"
    began = next(line for line in container.said() if line["message"].startswith("ready"))
    assert line["time"][:13] >= began["time"][:13]
    assert "secret" not in container.logs()


def test_it_is_quiet_unless_asked(endpoint: Endpoint, vertex: Container) -> None:
    assert endpoint.post(request(wire.INSTANCE)).code == 200
    assert endpoint.post(b"{}").code == 400
    told = [line["httpRequest"]["status"] for line in vertex.said() if "httpRequest" in line]
    assert not [status for status in told if status < 500]


def test_people_may_have_text(start: Start) -> None:
    container = start(**VERTEX | {"AIP_HTTP_PORT": "0"}, LOG_FORMAT="text")
    container.wait_until_ended(30)
    assert re.search(r"cannot serve: AIP_HTTP_PORT=0", container.logs())


def test_a_worker_that_is_killed_comes_back(start: Start) -> None:
    container = start(**VERTEX)
    endpoint = container.endpoint(9000, PREDICT)
    wait_until_healthy(endpoint, HEALTH)
    before = workers(container)
    container.kill("model_service_worker")
    deadline = time.monotonic() + 60
    while True:
        answer = endpoint.post(wire.CASES[0].body)
        if answer.code == 200 and not set(workers(container)) & set(before):
            break
        assert time.monotonic() < deadline, container.logs()
        time.sleep(0.2)
    assert container.state("Running") == "true"
