"""Log lines: parsing those of TorchServe, and writing them for Cloud Logging."""

import io
import json
import os
import re
import sys
import threading

import pytest

from serving import logs
from serving.logs import Log, LogRecord


def parse_only_line(stream: io.StringIO) -> dict[str, object]:
    """Return the fields of the only line that was written."""
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text.count("\n") == 1
    fields = json.loads(text)
    assert isinstance(fields, dict)
    return fields


def java_line(logger: str, message: str, severity: str = "INFO") -> str:
    """Return a line as Java writes it with serving/log4j2.xml."""
    return json.dumps({"severity": severity, "logger": logger, "message": message})


@pytest.mark.parametrize(
    ("text", "record"),
    [
        (
            java_line("BatchAggregator", "a\n\tat b", "ERROR"),
            LogRecord("ERROR", "a\n\tat b", "torchserve"),
        ),
        (
            java_line(
                "MODEL_LOG", '{"severity": "ERROR", "message": "x\\ny", "requests": ["7", "8"]}'
            ),
            LogRecord("ERROR", "x\ny", "worker", ("7", "8")),
        ),
        (
            java_line(
                "MODEL_LOG",
                '{"severity": "ERROR", "message": "x", "requests": ["7"], "trace": "t"}',
            ),
            LogRecord("ERROR", "x", "worker", ("7",), "t"),
        ),
        *(
            (java_line("MODEL_LOG", printed), LogRecord("INFO", printed, "worker"))
            for printed in (
                "printed by a handler",
                '{"my": "json"}',
                '{"a":' * 3000,
                '{"severity": "INFO", "message": "m", "requests": 3}',
                '{"severity": "INFO", "message": "m"}',
                '{"severity": "BOGUS", "message": "m", "requests": []}',
                '{"severity": ["INFO"], "message": "m", "requests": []}',
            )
        ),
        (java_line("BatchAggregator", "m", "BOGUS"), LogRecord("INFO", "m", "torchserve")),
        (
            java_line("BatchAggregator", '{"severity": "ERROR", "message": "not a worker"}'),
            LogRecord("INFO", '{"severity": "ERROR", "message": "not a worker"}', "torchserve"),
        ),
        *(
            (text, LogRecord("INFO", text, "torchserve"))
            for text in ("Started.", "{ no JSON", '{"no": "message"}', '{"a":' * 3000, "")
        ),
    ],
)
def test_lines_of_java_and_of_workers_are_distinguished(text: str, record: LogRecord) -> None:
    assert logs.parse_line(text) == record


def test_json_line_has_cloud_loggings_fields() -> None:
    stream = io.StringIO()
    log = Log(stream=stream)
    log.configure(as_text=False, labels={"endpoint_id": "12"})
    log.forward(
        LogRecord("ERROR", "a traceback\n  of two lines", "worker", ("7",), "projects/p/traces/t")
    )
    fields = parse_only_line(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", str(fields.pop("time")))
    assert fields == {
        "severity": "ERROR",
        "message": "a traceback\n  of two lines",
        "requests": ["7"],
        "logging.googleapis.com/trace": "projects/p/traces/t",
        "logging.googleapis.com/labels": {"endpoint_id": "12", "process": "worker"},
    }


def test_lines_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    log = Log(stream=stream)
    log.configure(as_text=False, level="ERROR")
    for severity in ("DEBUG", "INFO", "WARNING"):
        log.write(severity, "no")
    log.write("ERROR", "yes")
    assert parse_only_line(stream)["message"] == "yes"


def test_text_format_has_time_severity_and_process() -> None:
    stream = io.StringIO()
    log = Log(as_text=True, stream=stream)
    log.info("ready")
    log.write("ERROR", "it failed", "worker")
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d INFO    ready\n\d\d:\d\d:\d\d ERROR   worker: it failed\n",
        stream.getvalue(),
    )


def test_uncaught_exception_of_any_thread_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    stream = io.StringIO()
    Log(stream=stream).install_excepthook("telemetry")
    thread = threading.Thread(target=[].pop)
    thread.start()
    thread.join(5)
    fields = parse_only_line(stream)
    assert fields["severity"] == "CRITICAL"
    assert "IndexError: pop from empty list" in str(fields["message"])


def test_lines_of_other_processes_are_not_mixed() -> None:
    stream, (reading, writing) = io.StringIO(), os.pipe()
    log = Log(stream=stream)
    thread = log.pass_through(os.fdopen(reading))
    with os.fdopen(writing, "w") as process:
        for number in range(200):
            process.write(json.dumps({"n": number, "long": "x" * 9000}) + "\n")
            log.write("INFO", "y" * 9000)
    thread.join(5)
    assert len([json.loads(line) for line in stream.getvalue().splitlines()]) == 400
