"""How the image tells of itself: in its log, to Prometheus, and to an OTLP endpoint."""

import json
import math
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from emulator import containers
from emulator.config import EmulatorConfig
from tests import cases, otlp, prometheus
from tests.container.conftest import (
    DOCKER,
    HARDENED,
    VERTEX,
    Container,
    Start,
    docker,
    starting,
    wait_until_healthy,
)
from tests.http import JSON_TYPE, Endpoint, wait_for
from tests.images import ROOT, held_out, request_body
from tests.otlp import ReceivedTelemetry
from tests.programs import require_programs
from tests.prometheus import Prometheus

HEALTH, PREDICT = VERTEX["AIP_HEALTH_ROUTE"], VERTEX["AIP_PREDICT_ROUTE"]
pytestmark = pytest.mark.xdist_group("telemetry")
METRICS = 9464
SOON = {"OTEL_METRIC_EXPORT_INTERVAL": "1000", "OTEL_BSP_SCHEDULE_DELAY": "500"}


@pytest.fixture(scope="module")
def told(image: str) -> Iterator[tuple[str, ReceivedTelemetry]]:
    """Give an OTLP endpoint that containers reach, and what it was told."""
    del image  # which needs Docker, whose bridge this is
    with otlp.run_receiver(containers.bridge_address(EmulatorConfig(docker=DOCKER))) as receiving:
        yield receiving


@pytest.fixture(scope="module")
def observed(image: str, told: tuple[str, ReceivedTelemetry]) -> Iterator[Container]:
    """Start a container that tells everybody, and logs every request, in another time zone."""
    with starting(image) as start:
        container = start(
            *HARDENED,
            **VERTEX,
            ACCESS_LOG="all",
            TZ="EST5",
            METRICS_PORT=str(METRICS),
            OTEL_EXPORTER_OTLP_ENDPOINT=told[0],
            **SOON,
        )
        wait_until_healthy(container.endpoint(9000, "/"), HEALTH)
        yield container


@pytest.fixture
def predicting(observed: Container) -> Endpoint:
    return observed.endpoint(9000, PREDICT)


def metrics_text(container: Container) -> str:
    """Return Prometheus's text."""
    answer = container.endpoint(METRICS, "/metrics").send("GET", "/metrics")
    assert answer.code == 200, answer.body
    assert answer.headers["content-type"].startswith("text/plain")
    return answer.body


def metric_names(text: str) -> set[str]:
    return {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}


def scraped(container: Container) -> dict[str, float]:
    """Return each sample of Prometheus's text by its name and labels."""
    return {
        sample.name
        + "".join(f"[{value}]" for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics_text(container))
        for sample in family.samples
    }


def test_requests_instances_and_batches_are_counted_and_health_checks_are_not(
    observed: Container, predicting: Endpoint
) -> None:
    names = {
        "http_server_request_duration_seconds_count[POST][200]": 3,
        "http_server_request_duration_seconds_count[POST][400]": 1,
        "http_server_request_duration_seconds_count[GET][404]": 1,
        "http_server_request_duration_seconds_count[GET][200]": 0,  # health checks
        "serving_instances_total": 9,
        "serving_batch_requests_sum": 4,
        "serving_queue_wait_seconds_count": 4,
        "serving_batch_duration_seconds_count": 4,
    }
    before = scraped(observed)
    for _ in range(5):
        assert predicting.send("GET", HEALTH).code == 200
    for body in [request_body(*[base64 for base64, _ in held_out(3)])] * 3 + [b"{}"]:
        predicting.post(body)
    assert predicting.send("GET", "/metrics").code == 404

    def grown() -> dict[str, float]:
        after = scraped(observed)
        return {name: after.get(name, 0) - before.get(name, 0) for name in names}

    wait_for(lambda: grown() == names, 10, f"{names}, not {grown()}")
    after = scraped(observed)
    assert after["serving_model_info[456][123][digits][123][456][1.0]"] == 1
    for process in ("entrypoint", "nginx", "torchserve", "worker", "telemetry"):
        assert after[f"serving_process_memory_bytes[{process}]"] > 1 << 20


def test_prometheus_s_door_opens_to_nothing_else(observed: Container) -> None:
    door = observed.endpoint(METRICS, "/")
    assert door.send("GET", "/").code == 404
    assert door.send("POST", PREDICT, request_body(cases.INSTANCE), JSON_TYPE).code == 404
    assert door.send("POST", "/metrics").code == 405
    for path in ("/metrics", "/metrics/", f"{HEALTH}/../metrics"):
        assert observed.endpoint(9000, "/").send("GET", path).code == 404


def test_the_page_lists_the_metrics_that_there_are(
    observed: Container, predicting: Endpoint
) -> None:
    require_programs("promtool")
    assert predicting.post(request_body(cases.INSTANCE)).code == 200
    wait_for(lambda: "serving_decode_seconds_sum" in scraped(observed), 10, "histograms")
    text = metrics_text(observed)
    page = (ROOT / "docs" / "monitoring.md").read_text()
    listed = {
        cell.partition("{")[0].strip("`")
        for line in page.splitlines()
        if line.startswith("| `") and ("serving_" in line or "http_" in line)
        for cell in [line.split("|")[1].strip().strip("`")]
    }
    assert metric_names(text) == listed
    # It exits with the reason on standard error where a name or a type is wrong.
    subprocess.run(["promtool", "check", "metrics"], input=text, text=True, timeout=30, check=True)


TRACES = ["5f" * 16, "4e" * 16]


@pytest.mark.parametrize(
    ("trace", "header"),
    [
        (TRACES[0], {"traceparent": f"00-{TRACES[0]}-00f067aa0ba902b7-01"}),
        (TRACES[1], {"X-Cloud-Trace-Context": f"{TRACES[1]}/67667974448284343;o=1"}),
    ],
)
def test_a_trace_leads_from_the_caller_to_the_model_and_to_the_request_s_log_line(
    observed: Container,
    predicting: Endpoint,
    told: tuple[str, ReceivedTelemetry],
    trace: str,
    header: dict[str, str],
) -> None:
    answer = predicting.post(request_body(cases.INSTANCE), JSON_TYPE | header)
    line = line_of(observed, answer.headers["x-request-id"])
    assert line["logging.googleapis.com/trace"] == f"projects/1/traces/{trace}"
    labels = {"endpoint_id": "123", "deployed_model_id": "456", "process": "nginx"}
    labels |= {"model_name": "123", "model_version": "456"}
    assert line["logging.googleapis.com/labels"] == labels
    assert (line["severity"], line["httpRequest"]["status"]) == ("INFO", 200)
    assert cases.INSTANCE["b64"][:40] not in observed.logs()

    def found() -> dict[str, Any]:
        return {span.name: span for span in told[1].spans() if span.trace_id.hex() == trace}

    names = {"POST", "queue", "worker", "decode", "forward", "encode"}
    wait_for(lambda: set(found()) == names, 15, "six spans")
    assert found()["POST"].parent_span_id.hex() == "00f067aa0ba902b7"


def test_a_request_that_cannot_be_read_is_told_of_as_it_came_in_universal_time(
    observed: Container,
) -> None:
    with socket.create_connection((observed.address, 9000), 10) as client:
        client.sendall(
            f"POST {PREDICT}?secret HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n".encode()
        )
        answer = client.recv(9999).decode()
    assert answer.startswith("HTTP/1.1 400 ")
    line = line_of(observed, answer.partition("X-Request-Id: ")[2][:32])
    assert line["message"] == f"POST {PREDICT} 400"
    began = next(line for line in observed.said() if line["message"].startswith("ready"))
    assert line["time"][:13] >= began["time"][:13]
    assert "secret" not in observed.logs()


def line_of(container: Container, request_id: str) -> dict[str, Any]:
    """Wait for the access log's line of a request and return it."""

    def found() -> list[dict[str, Any]]:
        lines = [line for line in container.said() if "httpRequest" in line]
        return [line for line in lines if line["requests"] == [request_id]]

    wait_for(found, 10, "the request's line")
    return found()[0]


@pytest.fixture(scope="module")
def watching(observed: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Start a Prometheus that asks the container each second, and answer for some seconds."""
    require_programs("prometheus")
    target, folder = f"{observed.address}:{METRICS}", tmp_path_factory.mktemp("prometheus")
    endpoint = observed.endpoint(9000, PREDICT)
    with prometheus.run_prometheus(target, folder) as running:
        ends = time.monotonic() + 6
        while time.monotonic() < ends:
            assert endpoint.post(request_body(cases.INSTANCE)).code == 200
            time.sleep(0.05)
        yield running


def panels() -> list[tuple[str, str]]:
    document = json.loads((ROOT / "deploy" / "monitoring" / "grafana.json").read_text())
    return [
        (panel["title"], target["expr"])
        for panel in document["panels"]
        for target in panel["targets"]
    ]


@pytest.mark.full
@pytest.mark.parametrize(("title", "expression"), panels())
def test_each_panel_of_the_dashboard_shows_something(
    watching: Prometheus, title: str, expression: str
) -> None:
    now = time.time()
    shown = watching.query_range(expression.replace("$__rate_interval", "5s"), now - 5, now, 1)
    values = [value for value in shown if not math.isnan(value)]
    assert values, title
    assert max(values) > 0 or "restarts" in expression


@pytest.mark.full
def test_prometheus_takes_the_alerts_and_none_comes_while_all_is_well(watching: Prometheus) -> None:
    rules = [rule for group in watching.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == 5
    assert {rule["health"] for rule in rules} == {"ok"}
    assert not watching.get("alerts")["alerts"]


@pytest.mark.parametrize(
    "junk",
    [
        {"X-Cloud-Trace-Context": f"{'a' * 32}/1;o={'9' * 4301}"},
        {"X-Cloud-Trace-Context": "\1" * 7000, "traceparent": "\1" * 7000},
    ],
    ids=["digits without end", "control characters"],
)
def test_a_header_that_is_no_trace_harms_nobody_and_its_request_is_counted(
    observed: Container, predicting: Endpoint, junk: dict[str, str]
) -> None:
    counted = "http_server_request_duration_seconds_count[POST][400]"
    before = scraped(observed).get(counted, 0)
    for _ in range(20):
        assert predicting.post(b"{}", JSON_TYPE | junk).code == 400
    wait_for(lambda: scraped(observed)[counted] == before + 20, 10, "twenty more")
    assert not [line for line in observed.said() if line["severity"] == "CRITICAL"]


def test_scrapers_that_hang_up_leave_no_trace_in_the_log(
    observed: Container, predicting: Endpoint
) -> None:
    before = len(observed.said())
    for _ in range(20):
        with socket.create_connection((observed.address, METRICS), 5) as scraper:
            scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            scraper.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert scraped(observed)
    # The line of a later request: nothing may have come before it.
    line_of(observed, predicting.post(b"{}").headers["x-request-id"])
    assert len(observed.said()) == before + 1


def test_slow_scrapers_keep_nobody_out(observed: Container) -> None:
    slow = [socket.create_connection((observed.address, METRICS), 5) for _ in range(16)]
    try:
        for index, scraper in enumerate(slow):
            length = b"Content-Length: 1000000" if index % 2 else b"Transfer-Encoding: chunked"
            scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + length + b"\r\n\r\n")
        for scraper in slow:
            assert scraper.recv(12) in (b"HTTP/1.1 400", b"HTTP/1.1 429")
        assert scraped(observed)["serving_ready"] == 1
    finally:
        for scraper in slow:
            scraper.close()


def test_the_same_metrics_are_sent_to_an_otlp_endpoint(
    observed: Container, told: tuple[str, ReceivedTelemetry], predicting: Endpoint
) -> None:
    assert predicting.post(request_body(cases.INSTANCE)).code == 200
    wait_for(lambda: "serving_instances_total" in told[1].metrics("digits"), 15, "metrics")
    assert set(told[1].metrics("digits")) == metric_names(metrics_text(observed))
    resource = told[1].resource("digits")
    assert (resource["vertex.endpoint_id"], resource["gcp.project_id"]) == ("123", "1")


@pytest.mark.full
def test_the_last_metrics_are_sent_before_the_container_ends(
    start: Start, told: tuple[str, ReceivedTelemetry]
) -> None:
    own = {"OTEL_EXPORTER_OTLP_ENDPOINT": told[0], "OTEL_SERVICE_NAME": "last"}
    container = start(*HARDENED, **VERTEX, **own)
    endpoint = container.endpoint(9000, PREDICT)
    wait_until_healthy(endpoint, HEALTH)
    for _ in range(7):
        assert endpoint.post(request_body(cases.INSTANCE)).code == 200
    docker("kill", "--signal", "INT", container.name)
    assert container.wait_until_ended(24) == 0
    (point,) = told[1].metrics("last")["serving_instances_total"].sum.data_points
    assert point.as_double == 7 or point.as_int == 7


@pytest.mark.full
def test_a_worker_that_is_killed_comes_back_and_is_a_restart(
    observed: Container, predicting: Endpoint
) -> None:
    restarts, workers = "serving_worker_restarts_total", observed.workers()
    before = scraped(observed)[restarts]
    observed.kill("model_service_worker")
    wait_for(lambda: scraped(observed)[restarts] == before + 2, 60, "two restarts")
    wait_for(lambda: predicting.post(request_body(cases.INSTANCE)).code == 200, 60, "an answer")
    assert not set(observed.workers()) & set(workers)
    assert observed.is_running


@pytest.mark.full
def test_predictions_do_not_need_it_and_it_comes_back(
    observed: Container, predicting: Endpoint
) -> None:
    observed.kill("serving.telemetry")
    wait_for(lambda: "telemetry exited with code -9" in observed.logs(), 10, "the log's line")
    for _ in range(20):
        assert predicting.post(request_body(cases.INSTANCE)).code == 200
    assert observed.endpoint(9000, "/").send("GET", HEALTH).code == 200
    door = observed.endpoint(METRICS, "/metrics")
    wait_for(lambda: door.send("GET", "/metrics").code == 200, 30, "metrics")
    assert scraped(observed)["serving_worker_restarts_total"] == 0


@pytest.mark.full
def test_an_endpoint_that_does_not_answer_is_said_and_harms_nobody(start: Start) -> None:
    nowhere = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }
    container = start(*HARDENED, **VERTEX, **nowhere, **SOON)
    endpoint = container.endpoint(9000, PREDICT)
    wait_until_healthy(endpoint, HEALTH)
    for _ in range(20):
        assert endpoint.post(request_body(cases.INSTANCE)).code == 200

    def said() -> bool:
        return any(
            line["logging.googleapis.com/labels"]["process"] == "telemetry"
            and line["severity"] == "ERROR"
            for line in container.said()
        )

    wait_for(said, 30, "the log's line")
