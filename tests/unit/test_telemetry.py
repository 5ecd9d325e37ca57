"""Events of nginx and the workers become metrics and traces."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.auth.transport.requests import AuthorizedSession
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from prometheus_client import CollectorRegistry
from ts.context import RequestProcessor

from handler import batch
from serving.telemetry import export, processes
from serving.telemetry.errors import EventError, ExportError
from serving.telemetry.events import (
    BatchAnswered,
    Event,
    RequestAnswered,
    Timings,
    WorkerStarted,
    parse_event,
)
from serving.telemetry.metrics import Gauges, Instruments
from serving.telemetry.tracing import MAX_PENDING_REQUESTS, RequestIdGenerator, SpanWriter
from serving.worker.serving_worker import telemetry as worker

REQUEST = "0af7651916cd43dd8448eb211c80319c"
MS = 1_000_000
BATCH = BatchAnswered(
    {REQUEST: 100 * MS}, 103 * MS, 120 * MS, Timings(104 * MS, 110 * MS, 118 * MS, 119 * MS, 3), 0
)
ANSWERED = RequestAnswered(REQUEST, "POST", "/predict", 200, 99 * MS, 121 * MS, {})


def nginx_event(**changed: str) -> bytes:
    """Return a datagram in the format of docker/nginx.conf."""
    fields = {
        "request": REQUEST,
        "method": "POST",
        "path": "/predict",
        "status": "200",
        "ended": "0.121",
        "took": "0.022",
        "traceparent": "",
        "x-cloud-trace-context": "",
    }
    return b"<190>Nov 24 22:51:22 nginx: " + json.dumps({"answered": fields | changed}).encode()


@pytest.fixture
def sender(receiver: socket.socket) -> Iterator[worker.TelemetrySender]:
    """Return a worker's sender that is connected to the receiver."""
    with worker.connect_telemetry(str(receiver.getsockname()[1])) as connected:  # type: ignore[union-attr]
        yield worker.TelemetrySender(connected)


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    """Return the socket of the telemetry process."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("127.0.0.1", 0))
        opened.settimeout(5)
        yield opened


def test_event_of_nginx_is_parsed() -> None:
    assert parse_event(nginx_event()) == ANSWERED


def test_events_of_a_worker_are_parsed(
    receiver: socket.socket, sender: worker.TelemetrySender
) -> None:
    sender.send_started()
    assert isinstance(parse_event(receiver.recv(9999)), WorkerStarted)
    sender.set_timings(batch.Timings(1, 2, 3, 4, 5))
    headers = RequestProcessor({"X-Request-Id": REQUEST, "X-Sent": "1700000000.123"})
    sender.send_batch([headers, RequestProcessor({})], 7)
    event = parse_event(receiver.recv(9999))
    assert isinstance(event, BatchAnswered)
    assert event.requests == {REQUEST: 1_700_000_000_123_000_000}
    assert (event.received_ns, event.timings, event.lost_batches) == (7, Timings(1, 2, 3, 4, 5), 0)


def test_no_event_is_sent_for_the_entrypoints_probe(
    receiver: socket.socket, sender: worker.TelemetrySender
) -> None:
    sender.send_batch([RequestProcessor({})], 7)
    sender.send_started()
    assert isinstance(parse_event(receiver.recv(9999)), WorkerStarted)
    assert worker.connect_telemetry("") is None
    worker.TelemetrySender(None).send_started()  # sends nothing


def test_events_that_could_not_be_sent_are_counted(
    receiver: socket.socket, sender: worker.TelemetrySender
) -> None:
    headers = RequestProcessor({"X-Request-Id": REQUEST, "X-Sent": "0.1"})
    sender.send_batch([headers] * 2000, 7)  # more than a datagram holds
    sender.send_batch([headers], 7)
    event = parse_event(receiver.recv(9999))
    assert isinstance(event, BatchAnswered)
    assert event.lost_batches == 1


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"<190>x",
        b"{",
        b"[]",
        b"{}",
        b'{"other": {}}',
        b'{"answered": {}}',
        b'{"answered": 1}',
        nginx_event(status="x"),
        nginx_event(status="7"),
        nginx_event(request="zz"),
        b'{"batch":' * 9000,
        nginx_event(ended=""),
        b'{"batch": {"requests": [["a", null]], "timings": null, "arrived": 1, "ended": 2, "lost": 0}}',
        b'{"batch": {"requests": [], "timings": [1], "arrived": 1, "ended": 2, "lost": 0}}',
        b"\xff{\xff}",
    ],
)
def test_invalid_datagram_is_an_event_error(datagram: bytes) -> None:
    with pytest.raises(EventError):
        parse_event(datagram)


MODEL = {"model": "digits", "version": "1.0"}


def record_metrics(*events: Event, workers: int = 1) -> Callable[..., float | None]:
    """Record events; return a function that finds a sample by name and labels."""
    registry = CollectorRegistry()
    meter = export.build_meter_provider(export.build_resource(MODEL), registry).get_meter("serving")
    gauges = Gauges(
        memory_bytes=lambda: {"worker": 7}, is_ready=lambda: True, dropped_datagrams=lambda: 2
    )
    instruments = Instruments(meter, MODEL, workers, gauges)
    for event in events:
        instruments.record(event)
    return registry.get_sample_value


@pytest.mark.parametrize(
    ("status", "method", "count", "total"), [("200", "POST", 2, 0.044), ("503", "_OTHER", 1, 0.001)]
)
def test_requests_are_counted_and_timed_by_status_and_method(
    status: str, method: str, count: int, total: float
) -> None:
    failed = ANSWERED._replace(status=503, method="FOO", end_ns=100 * MS)
    sample = record_metrics(ANSWERED, ANSWERED, failed)
    name = "http_server_request_duration_seconds"
    labels = {"http_response_status_code": status, "http_request_method": method}
    assert sample(f"{name}_count", labels) == count
    assert sample(f"{name}_sum", labels) == pytest.approx(total)


def test_batch_time_is_split_into_its_steps() -> None:
    sample = record_metrics(BATCH)
    for name, total in {
        "queue_wait_seconds": 0.003,
        "decode_seconds": 0.006,
        "forward_seconds": 0.008,
        "batch_duration_seconds": 0.017,
        "batch_requests": 1,
        "batch_instances": 3,
    }.items():
        assert sample(f"serving_{name}_sum") == pytest.approx(total)
        assert sample(f"serving_{name}_count") == 1
    assert sample("serving_instances_total") == 3


def test_batch_without_timings_is_timed_as_a_whole() -> None:
    sample = record_metrics(BATCH._replace(timings=None, lost_batches=4))
    assert sample("serving_batch_duration_seconds_sum") == pytest.approx(0.017)
    assert sample("serving_telemetry_lost_total") == 4
    assert sample("serving_telemetry_dropped_total") == 2


@pytest.mark.parametrize(("started", "restarts"), [(1, 0), (5, 3)])
def test_each_worker_start_beyond_the_configured_number_is_a_restart(
    started: int, restarts: int
) -> None:
    sample = record_metrics(*map(WorkerStarted, range(started)), workers=2)
    assert sample("serving_worker_restarts_total") == restarts


def write_spans(*events: Event, sampler: Sampler = ALWAYS_ON) -> dict[str, ReadableSpan]:
    """Record events; return the spans by name."""
    ids, exporter = RequestIdGenerator(), InMemorySpanExporter()
    provider = TracerProvider(id_generator=ids, sampler=sampler)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    writer = SpanWriter(provider, ids)
    for event in events:
        writer.record(event)
    return {span.name: span for span in exporter.get_finished_spans()}


def test_trace_has_spans_from_nginx_to_the_model() -> None:
    written = write_spans(BATCH, ANSWERED)
    names = {span.context.span_id: name for name, span in written.items()}
    assert written["POST"].parent is None
    parents = {n: names[span.parent.span_id] for n, span in written.items() if span.parent}
    assert parents == {
        "queue": "POST",
        "worker": "POST",
        "decode": "worker",
        "forward": "worker",
        "encode": "worker",
    }
    took = {name: (span.start_time, span.end_time) for name, span in written.items()}
    assert took["POST"] == (99 * MS, 121 * MS)
    assert took["queue"] == (100 * MS, 103 * MS)
    assert took["worker"] == (103 * MS, 120 * MS)
    assert took["forward"] == (110 * MS, 118 * MS)


TRACE = "5f" * 16


@pytest.mark.parametrize(
    "caller",
    [
        {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"},
        {"x-cloud-trace-context": f"{TRACE}/67667974448284343;o=1"},
        {
            "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
            "x-cloud-trace-context": f"{'6e' * 16}/9;o=0",
        },
    ],
)
def test_callers_trace_is_continued_with_its_sampling_decision(caller: dict[str, str]) -> None:
    written = write_spans(
        BATCH, ANSWERED._replace(trace_headers=caller), sampler=ParentBased(ALWAYS_OFF)
    )
    span = written["POST"]
    assert f"{span.context.trace_id:032x}" == TRACE
    assert span.parent is not None
    assert span.parent.span_id == 67667974448284343
    assert written["decode"].context.trace_id == span.context.trace_id


@pytest.mark.parametrize(
    "caller",
    [
        {},
        *({"traceparent": junk, "x-cloud-trace-context": junk} for junk in ("", "00-zz-1-01")),
        {"traceparent": "a" * 4000, "x-cloud-trace-context": "a" * 4000},
        {"traceparent": f"ff-{TRACE}-00f067aa0ba902b7-01"},
        {"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"},
    ],
)
def test_trace_without_a_caller_has_the_requests_id(caller: dict[str, str]) -> None:
    written = write_spans(ANSWERED._replace(trace_headers=caller))
    assert f"{written['POST'].context.trace_id:032x}" == REQUEST


def test_request_is_not_traced_if_its_caller_does_not_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(export.ENDPOINT, "http://127.0.0.1:9")
    for name in export.SAMPLER_DEFAULTS:  # set and deleted, so that monkeypatch restores them
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    provider = export.build_tracer_provider(export.build_resource(MODEL), RequestIdGenerator())
    assert provider is not None
    provider.shutdown()
    for flag, names in (("00", set()), ("01", {"POST"})):
        caller = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-{flag}"}
        assert (
            set(write_spans(ANSWERED._replace(trace_headers=caller), sampler=provider.sampler))
            == names
        )


def test_oldest_batches_are_discarded_if_their_requests_are_never_answered() -> None:
    ids = RequestIdGenerator()
    writer = SpanWriter(TracerProvider(id_generator=ids), ids)
    for number in range(MAX_PENDING_REQUESTS + 10):
        writer.record(BATCH._replace(requests={f"{number:032x}": 1}))
    assert len(writer._batches) == MAX_PENDING_REQUESTS


def test_memory_is_summed_by_kind_of_process(tmp_path: Path) -> None:
    lines = {
        "1": "python\0-m\0serving.container.entrypoint",
        "7": "nginx: master",
        "8": "nginx: worker",
    }
    for name, line in lines.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "cmdline").write_text(line)
        (tmp_path / name / "smaps_rollup").write_text("Rss: 9 kB\nPss:   2 kB\n")
    (tmp_path / "9").mkdir()  # a process that has ended
    assert processes.memory_bytes(tmp_path) == {"entrypoint": 2048, "nginx": 4096}
    assert sum(processes.memory_bytes().values()) > 10_000_000  # this machine's


def test_dropped_datagrams_are_counted(receiver: socket.socket) -> None:
    inode = os.fstat(receiver.fileno()).st_ino
    assert processes.dropped_datagrams(inode) == 0
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(100):
            sender.sendto(b"x" * 1000, receiver.getsockname())
    assert processes.dropped_datagrams(inode) > 50


def test_only_googles_endpoint_gets_the_containers_credentials_and_missing_ones_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = {"client_id": "this account", "client_secret": "", "refresh_token": ""}
    (tmp_path / "key.json").write_text(json.dumps({"type": "authorized_user"} | account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    monkeypatch.setenv(export.ENDPOINT, "https://telemetry.googleapis.com")
    session = export.build_session()
    assert isinstance(session, AuthorizedSession)
    assert session.credentials.client_id == "this account"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(ExportError, match=r"none\.json"):
        export.build_session()
    monkeypatch.setenv(export.ENDPOINT, "http://collector:4318")
    assert export.build_session() is None


def test_resource_names_the_model_and_opentelemetrys_variables_override_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIP_PROJECT_NUMBER", "123")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "cloud.region=us-central1")
    model = MODEL | {"endpoint_id": "77"}
    attributes = export.build_resource(model).attributes
    assert attributes["service.name"] == "digits"
    assert attributes["vertex.endpoint_id"] == "77"
    assert attributes["gcp.project_id"] == "123"
    assert attributes["cloud.region"] == "us-central1"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    assert export.build_resource(model).attributes["service.name"] == "mine"


def test_traces_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(export.ENDPOINT, "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert export.build_tracer_provider(export.build_resource(MODEL), RequestIdGenerator()) is None


def test_timings_have_the_handlers_fields() -> None:
    assert batch.Timings._fields == Timings._fields
