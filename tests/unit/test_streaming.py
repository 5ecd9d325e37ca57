"""A stream has an event for each part, as the task yields them; errors and clients that leave end it."""

import json
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from ts.context import Context, RequestProcessor

from handler import streaming
from handler.vertex_handler import VertexHandler
from task import BadInstance, BadParameter
from task.adapter import AdaptedTask, adapt

LINES, EVENTS = "application/x-ndjson", "text/event-stream"


class Counter:
    """Counts up to its instance."""

    def __init__(self) -> None:
        self.computed: list[int] = []
        self.is_closed = False

    def preprocess(self, instance: Any) -> int:
        if not isinstance(instance, int):
            raise BadInstance("expected an integer")
        return instance

    def inference(self, batch: list[int]) -> list[int]:
        return [int(each) for each in batch]

    def postprocess(self, output: int, parameters: dict[str, Any]) -> Any:
        if parameters:
            raise BadParameter(f"{min(parameters)}: unknown")
        return float("nan") if output == 99 else output


class CountingStream(Counter):
    """Yields each number on its way; `fail_at` is the number at which it fails."""

    def stream(self, sample: int, parameters: dict[str, Any]) -> Iterator[Any]:
        if unknown := parameters.keys() - {"fail_at", "no_memory_at", "invalid_at", "nan_at"}:
            raise BadParameter(f"{min(unknown)}: unknown")
        try:
            for number in range(sample):
                self.computed.append(number)
                if number == parameters.get("fail_at"):
                    raise RuntimeError("an internal message")
                if number == parameters.get("no_memory_at"):
                    raise torch.OutOfMemoryError("CUDA out of memory")
                if number == parameters.get("invalid_at"):
                    raise BadInstance("too large")
                yield float("nan") if number == parameters.get("nan_at") else number
        finally:
            self.is_closed = True


def handle(
    task: Any,
    *requests: dict[str, Any],
    takes_iterators: bool = True,
    accept: str = "",
) -> list[tuple[int, str, Any]]:
    """Return the status, content type and body of each request of a batch."""
    context = Context("model", "/", {}, len(requests), None, "0.12.0")
    headers = {"Accept": accept, "body": {"content-type": "application/json"}}
    context.request_processor = [RequestProcessor(headers) for _ in requests]
    context.takes_iterators = takes_iterators
    handler = VertexHandler()
    handler.task = adapt(task)
    bodies = handler.handle([{"body": json.dumps(each).encode()} for each in requests], context)
    return [
        (each.get_response_status_code(), each.get_response_header("content-type"), body)
        for each, body in zip(context.request_processor, bodies, strict=True)
    ]


def ask(*instances: Any, **parameters: Any) -> dict[str, Any]:
    return {"instances": instances, "parameters": {"stream": True, **parameters}}


def read(stream: Iterable[str]) -> list[Any]:
    """Return the events of JSON lines."""
    chunks = list(stream)
    assert all(chunk.endswith("\n") and chunk.count("\n") == 1 for chunk in chunks)
    return [json.loads(chunk) for chunk in chunks]


def parts(index: int, *values: Any) -> list[Any]:
    return [{"instance": index, "part": value} for value in values]


def test_stream_has_an_event_for_each_part_of_each_instance() -> None:
    [(code, content_type, chunks)] = handle(CountingStream(), ask(3, 2))
    assert (code, content_type) == (200, LINES)
    assert read(chunks) == parts(0, 0, 1, 2) + parts(1, 0, 1)


def test_accept_header_asks_for_server_sent_events() -> None:
    request = {"instances": [2]}
    [(code, content_type, chunks)] = handle(CountingStream(), request, accept=f"*/*, {EVENTS}")
    assert (code, content_type) == (200, EVENTS)
    assert list(chunks) == [
        'data: {"instance":0,"part":0}\n\n',
        'data: {"instance":0,"part":1}\n\n',
    ]


def test_stream_false_overrides_the_accept_header() -> None:
    request = {"instances": [2], "parameters": {"stream": False}}
    [(_, content_type, body)] = handle(CountingStream(), request, accept=EVENTS)
    assert (content_type, body) == ("application/json", '{"predictions":[2]}')


@pytest.mark.parametrize("value", [1, "true", [True]])
def test_stream_that_is_no_boolean_gets_400(value: Any) -> None:
    [(code, _, body)] = handle(Counter(), {"instances": [1], "parameters": {"stream": value}})
    assert code == 400
    assert "parameters.stream: expected true or false" in body


def test_part_is_computed_when_it_is_taken_and_the_first_one_with_the_batch() -> None:
    task = CountingStream()
    plain, stream = handle(task, {"instances": [7]}, ask(5))
    assert plain == (200, "application/json", '{"predictions":[7]}')
    assert task.computed == [0]
    assert json.loads(next(stream[2]))["part"] == 0
    assert json.loads(next(stream[2]))["part"] == 1
    assert task.computed == [0, 1]


@pytest.mark.parametrize("taken", [0, 2])
def test_closing_a_stream_closes_the_generator_of_the_task(taken: int) -> None:
    task = CountingStream()
    [(_, _, chunks)] = handle(task, ask(5))
    for _ in range(taken):
        next(chunks)
    chunks.close()
    assert task.is_closed
    assert list(chunks) == []


def test_task_that_fails_while_its_stream_is_closed_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(Counter):
        def stream(self, sample: int) -> Iterator[int]:
            try:
                yield sample
            finally:
                raise RuntimeError("cannot clean up")

    [(_, _, chunks)] = handle(Failing(), ask(5))
    chunks.close()
    assert "closing a stream failed" in caplog.text
    assert "cannot clean up" in caplog.text


def test_failing_clean_up_after_an_invalid_first_part_affects_no_other_request() -> None:
    class Failing(Counter):
        def stream(self, sample: int) -> Iterator[float]:
            try:
                yield sample * float("nan")
            finally:
                raise RuntimeError("cannot clean up")

    good, bad = handle(Failing(), {"instances": [1]}, ask(5))
    assert [good[0], bad[0]] == [200, 500]
    assert "is NaN" in bad[2]


def test_worker_that_takes_no_iterators_gets_the_whole_text() -> None:
    [(_, content_type, body)] = handle(CountingStream(), ask(2), takes_iterators=False)
    assert content_type == LINES
    assert read(body.splitlines(keepends=True)) == parts(0, 0, 1)


def test_task_without_stream_gets_an_event_for_each_prediction() -> None:
    plain, stream = handle(Counter(), {"instances": [1]}, ask(2, 3))
    assert plain[2] == '{"predictions":[1]}'
    assert read(stream[2]) == parts(0, 2) + parts(1, 3)


@pytest.mark.parametrize("task", [Counter, CountingStream])
@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (ask(2, "x"), 400, "instances[1]: expected an integer"),
        (ask(2, topk=1), 400, "parameters.topk: unknown"),
    ],
)
def test_error_before_the_first_part_is_the_whole_response(
    task: type, request_: Any, code: int, message: str
) -> None:
    [(status, content_type, body)] = handle(task(), request_)
    assert (status, content_type) == (code, "application/json")
    assert json.loads(body)["error"]["message"] == message


def test_exception_before_the_first_part_gets_500() -> None:
    [(code, _, body)] = handle(CountingStream(), ask(3, fail_at=0))
    assert code == 500
    assert json.loads(body)["error"]["message"] == "instances[0]: stream failed"


@pytest.mark.parametrize(
    ("parameters", "code", "message"),
    [
        ({"fail_at": 1}, 500, "instances[0]: stream failed"),
        (
            {"no_memory_at": 1},
            503,
            "instances[0]: stream needs more memory than the device has free; send a smaller instance, or retry",
        ),
        ({"invalid_at": 1}, 400, "instances[0]: too large"),
        (
            {"nan_at": 1},
            500,
            "instances[0]: the prediction is NaN, which JSON cannot represent",
        ),
    ],
)
def test_error_in_the_middle_is_the_last_event(
    parameters: dict[str, int], code: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    task = CountingStream()
    [(status, _, chunks)] = handle(task, ask(3, 3, **parameters))
    first, last = read(chunks)
    assert status == 200
    assert first == {"instance": 0, "part": 0}
    status_name = {400: "INVALID_ARGUMENT", 500: "INTERNAL", 503: "UNAVAILABLE"}[code]
    assert last == {"error": {"code": code, "status": status_name, "message": message}}
    assert task.is_closed
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(logged) == (code >= 500)
    assert all(record.exc_info for record in logged)


@pytest.mark.parametrize("task", [Counter, CountingStream])
def test_on_error_return_replaces_the_parts_of_a_failed_instance(task: type) -> None:
    [(code, _, chunks)] = handle(task(), ask("x", 1, on_error="return"))
    bad, good = read(chunks)
    assert code == 200
    assert bad["instance"] == 0
    assert bad["error"]["status"] == "INVALID_ARGUMENT"
    assert good["instance"] == 1


def test_prediction_that_is_no_json_gets_500_also_as_a_stream() -> None:
    [(code, _, body)] = handle(Counter(), ask(1, 99))
    assert code == 500
    assert "instances[1]: the prediction is NaN" in body


def test_part_over_the_limit_of_a_response_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "MAX_RESPONSE_BYTES", 100)

    class Large(Counter):
        def stream(self, sample: int) -> Iterator[str]:
            yield "x"
            yield "x" * sample

    [(_, _, chunks)] = handle(Large(), ask(100))
    _, last = read(chunks)
    assert "a part of the stream has 124 bytes, the limit is 100" in last["error"]["message"]


def test_stream_without_parts_is_empty() -> None:
    [(code, content_type, chunks)] = handle(CountingStream(), ask(0))
    assert (code, content_type, list(chunks)) == (200, LINES, [])


def test_tensors_of_a_streamed_sample_are_on_the_device_and_gradients_are_off() -> None:
    class Devices(Counter):
        def preprocess(self, instance: int) -> Any:
            return {"tensor": torch.ones(instance), "number": instance}

        def stream(self, sample: dict[str, Any]) -> Iterator[Any]:
            yield str(sample["tensor"].device)
            yield torch.is_grad_enabled()

    [(_, _, chunks)] = handle(AdaptedTask(Devices(), "meta"), ask(2))
    next(chunks)
    assert torch.is_grad_enabled()
    assert json.loads(next(chunks))["part"] is False
    [(_, _, chunks)] = handle(AdaptedTask(Devices(), "meta"), ask(2))
    assert json.loads(next(chunks))["part"] == "meta"
