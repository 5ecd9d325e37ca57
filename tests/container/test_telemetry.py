"""The image's log, its metrics for Prometheus, and its metrics and traces for OTLP."""

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
    container_starter,
    docker,
    wait_until_healthy,
)
from tests.http import JSON_TYPE, Endpoint, wait_for
from tests.images import ROOT, labelled_images, request_body
from tests.otlp import ReceivedTelemetry
from tests.programs import require_programs
from tests.prometheus import Prometheus

HEALTH, PREDICT = VERTEX["AIP_HEALTH_ROUTE"], VERTEX["AIP_PREDICT_ROUTE"]
pytestmark = pytest.mark.xdist_group("telemetry")
METRICS_PORT = 9464
TRACED_SHARE = 0.5
SHORT_INTERVALS = {"OTEL_METRIC_EXPORT_INTERVAL": "1000", "OTEL_BSP_SCHEDULE_DELAY": "500"}


@pytest.fixture(scope="module")
def otlp_endpoint(image: str) -> Iterator[tuple[str, ReceivedTelemetry]]:
    """Yield the URL of an OTLP endpoint that containers reach, and what it receives."""
    del image  # skips without Docker, whose network this uses
    with otlp.run_receiver(containers.bridge_address(EmulatorConfig(docker=DOCKER))) as receiving:
        yield receiving


@pytest.fixture(scope="module")
def observed(image: str, otlp_endpoint: tuple[str, ReceivedTelemetry]) -> Iterator[Container]:
    """Start a container with all telemetry and every request logged, in another time zone."""
    with container_starter(image) as start:
        container = start(
            *HARDENED,
            **VERTEX,
            ACCESS_LOG="all",
            TZ="EST5",
            METRICS_PORT=str(METRICS_PORT),
            OTEL_EXPORTER_OTLP_ENDPOINT=otlp_endpoint[0],
            OTEL_TRACES_SAMPLER_ARG=str(TRACED_SHARE),
            **SHORT_INTERVALS,
        )
        wait_until_healthy(container.endpoint(9000, "/"), HEALTH)
        yield container


@pytest.fixture
def predicting(observed: Container) -> Endpoint:
    return observed.endpoint(9000, PREDICT)


def metrics_text(container: Container) -> str:
    """Return the metrics in Prometheus's text format."""
    answer = container.endpoint(METRICS_PORT, "/metrics").send("GET", "/metrics")
    assert answer.code == 200, answer.body
    assert answer.headers["content-type"].startswith("text/plain")
    return answer.body


def metric_names(text: str) -> set[str]:
    return {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}


def scrape(container: Container) -> dict[str, float]:
    """Return the samples of Prometheus's text by name and labels."""
    return {
        sample.name
        + "".join(f"[{value}]" for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics_text(container))
        for sample in family.samples
    }


def settled_scrape(container: Container) -> dict[str, float]:
    """Return the samples once those of all earlier responses, written after a second, are there."""
    time.sleep(1.5)
    return scrape(container)


def test_requests_instances_and_batches_are_counted_without_health_checks(
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
    before = settled_scrape(observed)
    for _ in range(5):
        assert predicting.send("GET", HEALTH).code == 200
    for body in [request_body(*[base64 for base64, _ in labelled_images(3)])] * 3 + [b"{}"]:
        predicting.post(body)
    assert predicting.send("GET", "/metrics").code == 404

    def growth() -> dict[str, float]:
        after = scrape(observed)
        return {name: after.get(name, 0) - before.get(name, 0) for name in names}

    wait_for(lambda: growth() == names, 10, f"{names}, not {growth()}")
    after = scrape(observed)
    assert after["serving_model_info[456][123][toy][123][456][1.0]"] == 1
    for process in ("entrypoint", "nginx", "torchserve", "worker", "telemetry"):
        assert after[f"serving_process_memory_bytes[{process}]"] > 1 << 20


def test_metrics_port_serves_only_metrics_and_the_main_port_serves_none(
    observed: Container,
) -> None:
    port = observed.endpoint(METRICS_PORT, "/")
    assert port.send("GET", "/").code == 404
    assert port.send("POST", PREDICT, request_body(cases.INSTANCE), JSON_TYPE).code == 404
    assert port.send("POST", "/metrics").code == 405
    for path in ("/metrics", "/metrics/", f"{HEALTH}/../metrics"):
        assert observed.endpoint(9000, "/").send("GET", path).code == 404


def test_documented_metrics_are_the_exported_ones(
    observed: Container, predicting: Endpoint
) -> None:
    require_programs("promtool")
    assert predicting.post(request_body(cases.INSTANCE)).code == 200
    wait_for(lambda: "serving_decode_seconds_sum" in scrape(observed), 10, "histograms")
    text = metrics_text(observed)
    page = (ROOT / "docs" / "monitoring.md").read_text()
    listed = {
        cell.partition("{")[0].strip("`")
        for line in page.splitlines()
        if line.startswith("| `") and ("serving_" in line or "http_" in line)
        for cell in [line.split("|")[1].strip().strip("`")]
    }
    assert metric_names(text) == listed
    # Fails with the reason on standard error if a name or type is wrong.
    subprocess.run(["promtool", "check", "metrics"], input=text, text=True, timeout=30, check=True)


TRACES = ["5f" * 16, "4e" * 16]


@pytest.mark.parametrize(
    ("trace", "header"),
    [
        (TRACES[0], {"traceparent": f"00-{TRACES[0]}-00f067aa0ba902b7-01"}),
        (TRACES[1], {"X-Cloud-Trace-Context": f"{TRACES[1]}/67667974448284343;o=1"}),
    ],
)
def test_callers_trace_has_spans_down_to_the_model_and_the_requests_log_line(
    observed: Container,
    predicting: Endpoint,
    otlp_endpoint: tuple[str, ReceivedTelemetry],
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

    def spans() -> dict[str, Any]:
        return {
            span.name: span for span in otlp_endpoint[1].spans() if span.trace_id.hex() == trace
        }

    names = {"POST", "queue", "worker", "decode", "forward", "encode"}
    wait_for(lambda: set(spans()) == names, 15, "six spans")
    assert spans()["POST"].parent_span_id.hex() == "00f067aa0ba902b7"


def test_share_of_the_other_requests_is_traced_by_their_ids(
    predicting: Endpoint, otlp_endpoint: tuple[str, ReceivedTelemetry]
) -> None:
    sent = [predicting.post(request_body(cases.INSTANCE)) for _ in range(20)]
    ids = {answer.headers["x-request-id"] for answer in sent}
    sampled = {each for each in ids if int(each[16:], 16) < TRACED_SHARE * 2**64}
    unsampled = {"traceparent": f"00-{'3d' * 16}-00f067aa0ba902b7-00"}
    assert predicting.post(request_body(cases.INSTANCE), JSON_TYPE | unsampled).code == 200

    def traced() -> set[str]:
        spans = otlp_endpoint[1].spans()
        return {span.trace_id.hex() for span in spans if span.name == "worker"}

    wait_for(lambda: traced() & ids == sampled, 15, "the spans of the sampled requests")
    assert "3d" * 16 not in traced()


def test_invalid_request_is_logged_with_its_path_and_in_utc(
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
    began = next(line for line in observed.log_lines() if line["message"].startswith("ready"))
    assert line["time"][:13] >= began["time"][:13]
    assert "secret" not in observed.logs()


def line_of(container: Container, request_id: str) -> dict[str, Any]:
    """Wait for a request's line in the access log and return it."""

    def matching_lines() -> list[dict[str, Any]]:
        lines = [line for line in container.log_lines() if "httpRequest" in line]
        return [line for line in lines if line["requests"] == [request_id]]

    wait_for(matching_lines, 10, "the request's line")
    return matching_lines()[0]


@pytest.fixture(scope="module")
def prometheus_server(
    observed: Container, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Start a Prometheus that scrapes the container each second, and send requests for 6 s."""
    require_programs("prometheus")
    target, folder = f"{observed.address}:{METRICS_PORT}", tmp_path_factory.mktemp("prometheus")
    endpoint = observed.endpoint(9000, PREDICT)
    with prometheus.run_prometheus(target, folder) as running:
        ends = time.monotonic() + 6
        while time.monotonic() < ends:
            assert endpoint.post(request_body(cases.INSTANCE)).code == 200
            time.sleep(0.05)
        yield running


def panel_queries() -> list[tuple[str, str]]:
    document = json.loads((ROOT / "deploy" / "monitoring" / "grafana.json").read_text())
    return [
        (panel["title"], target["expr"])
        for panel in document["panels"]
        for target in panel["targets"]
    ]


@pytest.mark.full
@pytest.mark.parametrize(("title", "expression"), panel_queries())
def test_each_panel_of_the_dashboard_has_data(
    prometheus_server: Prometheus, title: str, expression: str
) -> None:
    now = time.time()
    samples = prometheus_server.query_range(
        expression.replace("$__rate_interval", "5s"), now - 5, now, 1
    )
    values = [value for value in samples if not math.isnan(value)]
    assert values, title
    assert max(values) > 0 or "restarts" in expression


@pytest.mark.full
def test_prometheus_loads_the_alerts_and_none_fires_on_a_healthy_container(
    prometheus_server: Prometheus,
) -> None:
    rules = [rule for group in prometheus_server.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == 5
    assert {rule["health"] for rule in rules} == {"ok"}
    assert not prometheus_server.get("alerts")["alerts"]


@pytest.mark.parametrize(
    "junk",
    [
        {"X-Cloud-Trace-Context": f"{'a' * 32}/1;o={'9' * 4301}"},
        {"X-Cloud-Trace-Context": "\1" * 7000, "traceparent": "\1" * 7000},
    ],
    ids=["digits without end", "control characters"],
)
def test_invalid_trace_header_is_ignored_and_its_request_is_counted(
    observed: Container, predicting: Endpoint, junk: dict[str, str]
) -> None:
    counted = "http_server_request_duration_seconds_count[POST][400]"
    before = settled_scrape(observed).get(counted, 0)
    for _ in range(20):
        assert predicting.post(b"{}", JSON_TYPE | junk).code == 400
    wait_for(lambda: scrape(observed)[counted] == before + 20, 10, "twenty more")
    assert not [line for line in observed.log_lines() if line["severity"] == "CRITICAL"]


def test_scrapers_that_disconnect_are_not_logged(observed: Container, predicting: Endpoint) -> None:
    before = len(observed.log_lines())
    for _ in range(20):
        with socket.create_connection((observed.address, METRICS_PORT), 5) as scraper:
            scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            scraper.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert scrape(observed)
    # The log is complete once it has a later request's line, which must be the only new one.
    line_of(observed, predicting.post(b"{}").headers["x-request-id"])
    assert len(observed.log_lines()) == before + 1


def test_slow_scrapers_do_not_block_others(observed: Container) -> None:
    slow = [socket.create_connection((observed.address, METRICS_PORT), 5) for _ in range(16)]
    try:
        for index, scraper in enumerate(slow):
            length = b"Content-Length: 1000000" if index % 2 else b"Transfer-Encoding: chunked"
            scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + length + b"\r\n\r\n")
        for scraper in slow:
            assert scraper.recv(12) in (b"HTTP/1.1 400", b"HTTP/1.1 429")
        assert scrape(observed)["serving_ready"] == 1
    finally:
        for scraper in slow:
            scraper.close()


def test_otlp_endpoint_gets_the_same_metrics_as_prometheus(
    observed: Container, otlp_endpoint: tuple[str, ReceivedTelemetry], predicting: Endpoint
) -> None:
    assert predicting.post(request_body(cases.INSTANCE)).code == 200
    wait_for(lambda: "serving_instances_total" in otlp_endpoint[1].metrics("toy"), 15, "metrics")
    assert set(otlp_endpoint[1].metrics("toy")) == metric_names(metrics_text(observed))
    resource = otlp_endpoint[1].resource("toy")
    assert (resource["vertex.endpoint_id"], resource["gcp.project_id"]) == ("123", "1")


@pytest.mark.full
def test_last_metrics_are_sent_before_the_container_ends(
    start: Start, otlp_endpoint: tuple[str, ReceivedTelemetry]
) -> None:
    own = {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp_endpoint[0], "OTEL_SERVICE_NAME": "last"}
    container = start(*HARDENED, **VERTEX, **own)
    endpoint = container.endpoint(9000, PREDICT)
    wait_until_healthy(endpoint, HEALTH)
    for _ in range(7):
        assert endpoint.post(request_body(cases.INSTANCE)).code == 200
    docker("kill", "--signal", "INT", container.name)
    assert container.wait_until_ended(24) == 0
    metrics = otlp_endpoint[1].metrics("last")
    (point,) = metrics["serving_instances_total"].sum.data_points
    assert point.as_int == 7
    counts = [
        point.count
        for point in metrics["http_server_request_duration_seconds"].histogram.data_points
        if any(label.value.int_value == 200 for label in point.attributes)
    ]
    assert counts == [7]


@pytest.mark.full
def test_killed_worker_is_replaced_and_counted_as_a_restart(
    observed: Container, predicting: Endpoint
) -> None:
    restarts, workers = "serving_worker_restarts_total", observed.workers()
    assert predicting.post(request_body(cases.INSTANCE)).code == 200
    before = scrape(observed)
    observed.kill("model_service_worker")
    wait_for(lambda: scrape(observed)[restarts] == before[restarts] + 2, 60, "two restarts")
    instances = "serving_instances_total"  # the killed workers' still count
    assert scrape(observed)[instances] == before[instances]
    wait_for(lambda: predicting.post(request_body(cases.INSTANCE)).code == 200, 60, "an answer")
    assert not set(observed.workers()) & set(workers)
    assert observed.is_running


@pytest.mark.full
def test_predictions_continue_without_telemetry_and_it_is_restarted(
    observed: Container, predicting: Endpoint
) -> None:
    time.sleep(1.5)  # nginx's totals have the requests of a second ago
    before = scrape(observed)
    observed.kill("serving.telemetry")
    wait_for(lambda: "telemetry exited with code -9" in observed.logs(), 10, "the log's line")
    for _ in range(20):
        assert predicting.post(request_body(cases.INSTANCE)).code == 200
    assert observed.endpoint(9000, "/").send("GET", HEALTH).code == 200
    port = observed.endpoint(METRICS_PORT, "/metrics")
    wait_for(lambda: port.send("GET", "/metrics").code == 200, 30, "metrics")
    after = scrape(observed)
    for name, growth in {
        "http_server_request_duration_seconds_count[POST][200]": 20,
        "serving_instances_total": 20,
        "serving_worker_restarts_total": 0,
    }.items():
        assert after[name] == before[name] + growth


@pytest.mark.full
def test_unreachable_otlp_endpoint_is_logged_and_predictions_continue(start: Start) -> None:
    unreachable = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }
    container = start(*HARDENED, **VERTEX, **unreachable, **SHORT_INTERVALS)
    endpoint = container.endpoint(9000, PREDICT)
    wait_until_healthy(endpoint, HEALTH)
    for _ in range(20):
        assert endpoint.post(request_body(cases.INSTANCE)).code == 200

    def is_logged() -> bool:
        return any(
            line["logging.googleapis.com/labels"]["process"] == "telemetry"
            and line["severity"] == "ERROR"
            for line in container.log_lines()
        )

    wait_for(is_logged, 30, "the log's line")
