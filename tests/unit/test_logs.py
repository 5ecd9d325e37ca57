"""What the container's processes say, as Cloud Logging takes it."""

import io
import json
import os
import re
import sys
import threading

import pytest

from serving import logs
from serving.logs import Log, LogRecord


def written(stream: io.StringIO) -> dict[str, object]:
    """Return the one line that was written, as its fields."""
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text.count("\n") == 1
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def java(logger: str, message: str, severity: str = "INFO") -> str:
    """Return a line as serving/log4j2.xml has Java write it."""
    return json.dumps({"severity": severity, "logger": logger, "message": message})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            java("BatchAggregator", "a\n\tat b", "ERROR"),
            LogRecord("ERROR", "a\n\tat b", "torchserve"),
        ),
        (
            java("MODEL_LOG", '{"severity": "ERROR", "message": "x\\ny", "requests": ["7", "8"]}'),
            LogRecord("ERROR", "x\ny", "worker", ("7", "8")),
        ),
        (
            java(
                "MODEL_LOG",
                '{"severity": "ERROR", "message": "x", "requests": ["7"], "trace": "t"}',
            ),
            LogRecord("ERROR", "x", "worker", ("7",), "t"),
        ),
        *(
            (java("MODEL_LOG", printed), LogRecord("INFO", printed, "worker"))
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
        (java("BatchAggregator", "m", "BOGUS"), LogRecord("INFO", "m", "torchserve")),
        (
            java("BatchAggregator", '{"severity": "ERROR", "message": "not a worker"}'),
            LogRecord("INFO", '{"severity": "ERROR", "message": "not a worker"}', "torchserve"),
        ),
        *(
            (text, LogRecord("INFO", text, "torchserve"))
            for text in ("Started.", "{ no JSON", '{"no": "message"}', '{"a":' * 3000, "")
        ),
    ],
)
def test_what_java_and_its_workers_say_is_told_apart(text: str, line: LogRecord) -> None:
    assert logs.parse_line(text) == line


def test_a_line_has_cloud_logging_s_fields() -> None:
    stream = io.StringIO()
    log = Log(stream=stream)
    log.configure(as_text=False, labels={"endpoint_id": "12"})
    log.forward(
        LogRecord("ERROR", "a traceback\n  of two lines", "worker", ("7",), "projects/p/traces/t")
    )
    found = written(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", str(found.pop("time")))
    assert found == {
        "severity": "ERROR",
        "message": "a traceback\n  of two lines",
        "requests": ["7"],
        "logging.googleapis.com/trace": "projects/p/traces/t",
        "logging.googleapis.com/labels": {"endpoint_id": "12", "process": "worker"},
    }


def test_what_is_less_than_the_level_is_left_out() -> None:
    stream = io.StringIO()
    log = Log(stream=stream)
    log.configure(as_text=False, level="ERROR")
    for severity in ("DEBUG", "INFO", "WARNING"):
        log.write(severity, "no")
    log.write("ERROR", "yes")
    assert written(stream)["message"] == "yes"


def test_people_get_text() -> None:
    stream = io.StringIO()
    log = Log(as_text=True, stream=stream)
    log.info("ready")
    log.write("ERROR", "it failed", "worker")
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d INFO    ready\n\d\d:\d\d:\d\d ERROR   worker: it failed\n",
        stream.getvalue(),
    )


def test_what_nobody_catches_is_one_line_on_whatever_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    stream = io.StringIO()
    Log(stream=stream).install_excepthook("telemetry")
    thread = threading.Thread(target=[].pop)
    thread.start()
    thread.join(5)
    found = written(stream)
    assert found["severity"] == "CRITICAL"
    assert "IndexError: pop from empty list" in str(found["message"])


def test_the_lines_of_other_processes_are_written_whole_by_the_one_writer() -> None:
    stream, (reading, writing) = io.StringIO(), os.pipe()
    log = Log(stream=stream)
    thread = log.pass_through(os.fdopen(reading))
    with os.fdopen(writing, "w") as process:
        for number in range(200):
            process.write(json.dumps({"n": number, "long": "x" * 9000}) + "\n")
            log.write("INFO", "y" * 9000)
    thread.join(5)
    assert len([json.loads(line) for line in stream.getvalue().splitlines()]) == 400
