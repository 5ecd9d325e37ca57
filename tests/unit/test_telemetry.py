"""What is told of requests becomes metrics and traces."""

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
from serving.telemetry import events, export, processes
from serving.telemetry.events import Answered, Batch, Stages, Started
from serving.telemetry.metrics import Gauges, Instruments
from serving.telemetry.tracing import MOST_KEPT, Ids, Spans
from serving.worker.ts import model_service_worker as worker

REQUEST = "0af7651916cd43dd8448eb211c80319c"
MS = 1_000_000
BATCH = Batch(
    {REQUEST: 100 * MS}, 103 * MS, 120 * MS, Stages(104 * MS, 110 * MS, 118 * MS, 119 * MS, 3), 0
)
ANSWERED = Answered(REQUEST, "POST", "/predict", 200, 99 * MS, 121 * MS, {})


def nginx(**changed: str) -> bytes:
    """Return a line as docker/nginx.conf has it written."""
    said = {
        "request": REQUEST,
        "method": "POST",
        "path": "/predict",
        "status": "200",
        "ended": "0.121",
        "took": "0.022",
        "traceparent": "",
        "x-cloud-trace-context": "",
    }
    return b"<190>Nov 24 22:51:22 front: " + json.dumps({"answered": said | changed}).encode()


@pytest.fixture
def telling(wire: socket.socket) -> Iterator[worker.Telling]:
    """Return what a worker tells on it with."""
    with worker._wire(str(wire.getsockname()[1])) as connected:  # type: ignore[union-attr]
        yield worker.Telling(connected)


@pytest.fixture
def wire() -> Iterator[socket.socket]:
    """Return a socket as telemetry/ is told on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("127.0.0.1", 0))
        opened.settimeout(5)
        yield opened


def test_what_the_front_door_tells_is_read() -> None:
    assert events.read(nginx()) == ANSWERED


def test_what_a_worker_tells_is_read(wire: socket.socket, telling: worker.Telling) -> None:
    telling.started()
    assert isinstance(events.read(wire.recv(9999)), Started)
    telling.take(batch.Timings(1, 2, 3, 4, 5))
    about = RequestProcessor({"X-Request-Id": REQUEST, "X-Sent": "1700000000.123"})
    telling.batch([about, RequestProcessor({})], 7)
    fact = events.read(wire.recv(9999))
    assert isinstance(fact, Batch)
    assert fact.requests == {REQUEST: 1_700_000_000_123_000_000}
    assert (fact.arrived, fact.stages, fact.lost) == (7, Stages(1, 2, 3, 4, 5), 0)


def test_the_entrypoint_s_own_question_is_not_told_of(
    wire: socket.socket, telling: worker.Telling
) -> None:
    telling.batch([RequestProcessor({})], 7)
    telling.started()
    assert isinstance(events.read(wire.recv(9999)), Started)
    worker.Telling(worker._wire("")).started()  # with nobody to tell, it does nothing


def test_what_could_not_be_told_is_counted(wire: socket.socket, telling: worker.Telling) -> None:
    about = RequestProcessor({"X-Request-Id": REQUEST, "X-Sent": "0.1"})
    telling.batch([about] * 2000, 7)  # more than a datagram holds
    telling.batch([about], 7)
    fact = events.read(wire.recv(9999))
    assert isinstance(fact, Batch)
    assert fact.lost == 1


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
        nginx(status="x"),
        nginx(status="7"),
        nginx(request="zz"),
        b'{"batch":' * 9000,
        nginx(ended=""),
        b'{"batch": {"requests": [["a", null]], "stages": null, "arrived": 1, "ended": 2, "lost": 0}}',
        b'{"batch": {"requests": [], "stages": [1], "arrived": 1, "ended": 2, "lost": 0}}',
        b"\xff{\xff}",
    ],
)
def test_what_is_no_fact_is_refused(datagram: bytes) -> None:
    with pytest.raises(events.EventError):
        events.read(datagram)


ABOUT = {"model": "digits", "version": "1.0"}


def measured(*told: Answered | Batch | Started, workers: int = 1) -> Callable[..., float | None]:
    """Return a function that finds a sample by its name and labels after some facts."""
    registry = CollectorRegistry()
    meter = export.meters(export.resource(ABOUT), registry).get_meter("serving")
    looks = Gauges(lambda: {"worker": 7}, lambda: True, lambda: 2)
    instruments = Instruments(meter, ABOUT, workers, looks)
    for fact in told:
        instruments.take(fact)
    return registry.get_sample_value


@pytest.mark.parametrize(
    ("status", "method", "count", "total"), [("200", "POST", 2, 0.044), ("503", "_OTHER", 1, 0.001)]
)
def test_requests_are_counted_by_status_and_timed(
    status: str, method: str, count: int, total: float
) -> None:
    failed = ANSWERED._replace(status=503, method="FOO", ended=100 * MS)
    sample = measured(ANSWERED, ANSWERED, failed)
    name = "http_server_request_duration_seconds"
    labels = {"http_response_status_code": status, "http_request_method": method}
    assert sample(f"{name}_count", labels) == count
    assert sample(f"{name}_sum", labels) == pytest.approx(total)


def test_a_batch_s_time_is_split_into_its_stages() -> None:
    sample = measured(BATCH)
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


def test_a_handler_that_tells_nothing_is_timed_as_a_whole() -> None:
    sample = measured(BATCH._replace(stages=None, lost=4))
    assert sample("serving_batch_duration_seconds_sum") == pytest.approx(0.017)
    assert sample("serving_telemetry_lost_total") == 4
    assert sample("serving_telemetry_dropped_total") == 2


@pytest.mark.parametrize(("started", "restarts"), [(1, 0), (5, 3)])
def test_a_worker_beyond_those_that_belong_there_is_a_restart(started: int, restarts: int) -> None:
    sample = measured(*map(Started, range(started)), workers=2)
    assert sample("serving_worker_restarts_total") == restarts


def spans(*told: Answered | Batch, sampler: Sampler = ALWAYS_ON) -> dict[str, ReadableSpan]:
    ids, exporter = Ids(), InMemorySpanExporter()
    provider = TracerProvider(id_generator=ids, sampler=sampler)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    writing = Spans(provider, ids)
    for fact in told:
        writing.take(fact)
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_trace_leads_from_the_front_door_to_the_model() -> None:
    written = spans(BATCH, ANSWERED)
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
def test_a_caller_s_trace_is_gone_on_with_and_its_choice_holds(caller: dict[str, str]) -> None:
    written = spans(BATCH, ANSWERED._replace(caller=caller), sampler=ParentBased(ALWAYS_OFF))
    front = written["POST"]
    assert f"{front.context.trace_id:032x}" == TRACE
    assert front.parent is not None
    assert front.parent.span_id == 67667974448284343
    assert written["decode"].context.trace_id == front.context.trace_id


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
def test_a_trace_that_no_caller_began_has_the_request_s_id(caller: dict[str, str]) -> None:
    written = spans(ANSWERED._replace(caller=caller))
    assert f"{written['POST'].context.trace_id:032x}" == REQUEST


def test_a_caller_that_does_not_sample_is_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(export.ENDPOINT, "http://127.0.0.1:9")
    for name in export.SAMPLED:  # set and deleted, so that what export sets is undone
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    provider = export.tracers(export.resource(ABOUT), Ids())
    assert provider is not None
    provider.shutdown()
    for flag, names in (("00", set()), ("01", {"POST"})):
        caller = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-{flag}"}
        assert set(spans(ANSWERED._replace(caller=caller), sampler=provider.sampler)) == names


def test_requests_whose_answer_is_never_told_of_are_given_up() -> None:
    ids = Ids()
    writing = Spans(TracerProvider(id_generator=ids), ids)
    for number in range(MOST_KEPT + 10):
        writing.take(BATCH._replace(requests={f"{number:032x}": 1}))
    assert len(writing._batches) == MOST_KEPT


def test_the_memory_of_processes_is_told_by_their_kind(tmp_path: Path) -> None:
    lines = {
        "1": "python\0-m\0serving.container.entrypoint",
        "7": "nginx: master",
        "8": "nginx: worker",
    }
    for name, line in lines.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "cmdline").write_text(line)
        (tmp_path / name / "smaps_rollup").write_text("Rss: 9 kB\nPss:   2 kB\n")
    (tmp_path / "9").mkdir()  # it ends while it is looked at
    assert processes.memory(tmp_path) == {"entrypoint": 2048, "front": 4096}
    assert sum(processes.memory().values()) > 10_000_000  # of this very machine


def test_datagrams_without_room_are_counted(wire: socket.socket) -> None:
    inode = os.fstat(wire.fileno()).st_ino
    assert processes.dropped(inode) == 0
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(100):
            sender.sendto(b"x" * 1000, wire.getsockname())
    assert processes.dropped(inode) > 50


def test_google_s_endpoint_is_told_with_the_container_s_own_credentials_or_it_is_said_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = {"client_id": "this account", "client_secret": "", "refresh_token": ""}
    (tmp_path / "key.json").write_text(json.dumps({"type": "authorized_user"} | account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    monkeypatch.setenv(export.ENDPOINT, "https://telemetry.googleapis.com")
    session = export.session()
    assert isinstance(session, AuthorizedSession)
    assert session.credentials.client_id == "this account"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(export.ExportError, match=r"none\.json"):
        export.session()
    monkeypatch.setenv(export.ENDPOINT, "http://collector:4318")
    assert export.session() is None


def test_whoever_tells_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIP_PROJECT_NUMBER", "123")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "cloud.region=us-central1")
    about = ABOUT | {"endpoint_id": "77"}
    named = export.resource(about).attributes
    assert named["service.name"] == "digits"
    assert named["vertex.endpoint_id"] == "77"
    assert named["gcp.project_id"] == "123"
    assert named["cloud.region"] == "us-central1"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    assert export.resource(about).attributes["service.name"] == "mine"


def test_one_signal_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(export.ENDPOINT, "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert export.tracers(export.resource(ABOUT), Ids()) is None


def test_the_stages_that_the_handler_tells_are_those_that_are_read() -> None:
    assert batch.Timings._fields == Stages._fields
