"""Events of nginx and the workers become metrics and traces."""

import json
import multiprocessing
import os
import signal
import socket
import time
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
    parse_event,
)
from serving.telemetry.metrics import TotalsReader, create_gauges
from serving.telemetry.tracing import MAX_PENDING_REQUESTS, RequestIdGenerator, SpanWriter
from serving.worker.serving_worker import telemetry
from serving.worker.serving_worker.telemetry import TelemetrySender
from serving.worker.serving_worker.totals import Totals, sum_totals

REQUEST = "0af7651916cd43dd8448eb211c80319c"
MS = 1_000_000
BATCH = BatchAnswered(
    {REQUEST: 100 * MS}, 103 * MS, 120 * MS, Timings(104 * MS, 110 * MS, 118 * MS, 119 * MS, 3)
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
def receiver() -> Iterator[socket.socket]:
    """Return the socket of the telemetry process."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("127.0.0.1", 0))
        opened.settimeout(5)
        yield opened


def create_sender(folder: Path) -> TelemetrySender:
    """Return the sender of a worker that sends no events."""
    return telemetry.create_sender({"TELEMETRY_DIR": str(folder)})


@pytest.fixture
def event_sender(receiver: socket.socket, tmp_path: Path) -> Iterator[TelemetrySender]:
    """Return the sender of a worker that sends events to the receiver."""
    port = str(receiver.getsockname()[1])
    sender = telemetry.create_sender({"TELEMETRY_DIR": str(tmp_path), "TELEMETRY_PORT": port})
    assert sender._connection is not None
    with sender._connection:
        yield sender


def headers(sent: str = "1700000000.123", *, is_sampled: bool = True) -> RequestProcessor:
    """Return the headers that nginx passes to a worker."""
    sampled = {"X-Sampled": "1"} if is_sampled else {}
    return RequestProcessor({"X-Request-Id": REQUEST, "X-Sent": sent} | sampled)


def test_event_of_nginx_is_parsed() -> None:
    assert parse_event(nginx_event()) == ANSWERED


def test_event_of_a_batch_with_a_sampled_request_is_parsed(
    receiver: socket.socket, event_sender: TelemetrySender
) -> None:
    event_sender.set_timings(batch.Timings(1, 2, 3, 4, 5))
    event_sender.send_batch([headers(is_sampled=False)], 6)
    event_sender.send_batch([headers(), RequestProcessor({})], 7)
    event = parse_event(receiver.recv(9999))
    assert isinstance(event, BatchAnswered)
    assert event.requests == {REQUEST: 1_700_000_000_123_000_000}
    assert (event.received_ns, event.timings) == (7, Timings(1, 2, 3, 4, 5))


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
        b'{"batch": {"requests": [["a", null]], "timings": null, "arrived": 1, "ended": 2}}',
        b'{"batch": {"requests": [], "timings": [1], "arrived": 1, "ended": 2}}',
        b"\xff{\xff}",
    ],
)
def test_invalid_datagram_is_an_event_error(datagram: bytes) -> None:
    with pytest.raises(EventError):
        parse_event(datagram)


MODEL = {"model": "digits", "version": "1.0"}


def read_metrics(folder: Path, workers: int = 1) -> Callable[..., float | None]:
    """Export the totals in `folder`; return a function that finds a sample by name and labels."""
    registry = CollectorRegistry()
    totals = TotalsReader(run=folder, workers=workers, since_ns=0, dropped_datagrams=lambda: 2)
    meters = export.build_meter_provider(export.build_resource(MODEL), registry, totals.read)
    create_gauges(meters.get_meter("serving"), MODEL, lambda: True, lambda: {"worker": 7})
    return registry.get_sample_value


def test_requests_are_read_from_nginxs_file_by_method_and_status(tmp_path: Path) -> None:
    assert read_metrics(tmp_path)("serving_ready") == 1  # before the first request
    first, rest = "1 2 " + "0 " * 15, "0 " * 16
    (tmp_path / "requests.txt").write_text(f"POST 200 {first}0.002\n_OTHER 503 {rest}3 200\n")
    sample = read_metrics(tmp_path)
    name = "http_server_request_duration_seconds"
    labels = {"http_response_status_code": "200", "http_request_method": "POST"}
    assert sample(f"{name}_count", labels) == 3
    assert sample(f"{name}_sum", labels) == pytest.approx(0.002)
    assert sample(f"{name}_bucket", labels | {"le": "0.0005"}) == 1
    assert sample(f"{name}_bucket", labels | {"le": "0.001"}) == 3
    labels = {"http_response_status_code": "503", "http_request_method": "_OTHER"}
    assert sample(f"{name}_bucket", labels | {"le": "60"}) == 0
    assert sample(f"{name}_bucket", labels | {"le": "+Inf"}) == 3


def test_batch_time_is_split_into_its_steps(tmp_path: Path) -> None:
    sender = create_sender(tmp_path)
    sender.set_timings(batch.Timings(104 * MS, 110 * MS, 118 * MS, 119 * MS, 3))
    now = time.time_ns()
    sender.send_batch([headers(f"{now / 1e9 - 0.003:.3f}")] * 2, now)
    sample = read_metrics(tmp_path)
    for name, total, count in (
        ("queue_wait_seconds", 0.006, 2),
        ("decode_seconds", 0.006, 1),
        ("forward_seconds", 0.008, 1),
        ("batch_duration_seconds", 0.0, 1),
        ("batch_requests", 2, 1),
        ("batch_instances", 3, 1),
    ):
        assert sample(f"serving_{name}_sum") == pytest.approx(total, abs=0.001)
        assert sample(f"serving_{name}_count") == count
    assert sample("serving_batch_instances_bucket", {"le": "2"}) == 0
    assert sample("serving_batch_instances_bucket", {"le": "4"}) == 1
    assert sample("serving_instances_total") == 3


def test_value_at_a_buckets_bound_is_in_the_bucket(tmp_path: Path) -> None:
    totals = Totals(tmp_path)
    for value in (0, 1, 4096, 4097):
        totals.record("serving_batch_instances", value)
    counts = sum_totals(tmp_path)["serving_batch_instances"]
    assert counts == [2.0, *[0.0] * 10, 1.0, 1.0, 8194.0]


def test_batch_without_timings_is_timed_as_a_whole(tmp_path: Path) -> None:
    create_sender(tmp_path).send_batch([headers()], time.time_ns() - 17 * MS)
    sample = read_metrics(tmp_path)
    assert sample("serving_batch_duration_seconds_sum") == pytest.approx(0.017, abs=0.01)
    assert sample("serving_decode_seconds_count") == 0
    assert sample("serving_telemetry_lost_total") == 0
    assert sample("serving_telemetry_dropped_total") == 2


def test_the_entrypoints_probe_is_not_counted(tmp_path: Path) -> None:
    create_sender(tmp_path).send_batch([RequestProcessor({})], 7)
    assert read_metrics(tmp_path)("serving_batch_requests_count") == 0


def test_nothing_is_reported_without_telemetry(tmp_path: Path) -> None:
    sender = telemetry.create_sender({})
    sender.send_started()
    sender.send_batch([headers()], 7)
    assert not list(tmp_path.iterdir())


def test_events_that_could_not_be_sent_are_counted(
    event_sender: TelemetrySender, tmp_path: Path
) -> None:
    event_sender.send_batch([headers()] * 2000, 7)  # more than a datagram holds
    event_sender.send_batch([headers()], 7)
    sample = read_metrics(tmp_path)
    assert sample("serving_telemetry_lost_total") == 1
    assert sample("serving_batch_requests_sum") == 2001


def _start_and_end(folder: Path) -> None:
    sender = create_sender(folder)
    sender.send_started()
    sender.send_batch([headers()], 7)
    os.kill(os.getpid(), signal.SIGKILL)


def test_totals_of_killed_workers_remain_and_their_files_are_used_again(tmp_path: Path) -> None:
    running = create_sender(tmp_path)
    running.send_started()
    running.send_batch([headers()], 7)
    for _ in range(3):
        process = multiprocessing.get_context("spawn").Process(
            target=_start_and_end, args=[tmp_path]
        )
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    sample = read_metrics(tmp_path, workers=2)
    assert sample("serving_batch_requests_count") == 4
    assert sample("serving_worker_restarts_total") == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_workers_that_have_yet_to_start_are_no_restarts(tmp_path: Path) -> None:
    create_sender(tmp_path).send_started()
    assert read_metrics(tmp_path, workers=2)("serving_worker_restarts_total") == 0


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
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.01")
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
        "1": "python\0-m\0serving.container\0",
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
