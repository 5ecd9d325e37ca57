"""Answer a request by a stream: an event for each part of a prediction, as the task yields them.

An event is {"instance": 0, "part": ...}. An error in the middle ends the stream: {"error": ...}. With `on_error` the
error of an instance is {"instance": 0, "error": ...}, and the next instance follows.
"""

import json
import logging
from collections.abc import Generator, Iterator, Sequence
from http import HTTPStatus
from typing import Any

import torch

from handler import envelope
from handler.collation import move
from handler.envelope import EVENT_STREAM, MAX_RESPONSE_BYTES, Request, Response
from handler.error_report import find_request_error
from handler.errors import InternalError, RequestError
from handler.failures import Failures
from handler.json_output import EncodingError, encode_prediction
from handler.preprocessing import Preprocessed
from task import BadInstance, BadParameter
from task.adapter import AdaptedTask

log = logging.getLogger(__name__)


class Chunks(Iterator[str]):
    """The events of a stream as text. Each is computed when it is taken, except the first."""

    def __init__(self, chunks: Generator[str, None, None]) -> None:
        """Compute the first event; raise RequestError if it is the error of the whole request."""
        self._first, self._chunks = next(chunks, None), chunks

    def __next__(self) -> str:
        """Return the next event."""
        chunk, self._first = self._first, None
        return next(self._chunks) if chunk is None else chunk

    def close(self) -> None:
        """End the stream before its last event, and the task's generator."""
        self._first = None
        _close(self._chunks)


def stream_parts(task: AdaptedTask, preprocessed: Preprocessed, failures: Failures) -> Response:
    """Return the response with what the task's `stream` yields for each instance.

    An error before the first part is the whole response.
    """
    try:
        return _respond(preprocessed.request, _encode_parts(task, preprocessed, failures))
    except RequestError as error:
        return envelope.format_error(error)


def stream_predictions(request: Request, values: Sequence[Any | RequestError]) -> Response:
    """Return the response with each prediction as one part, for a task without `stream`.

    Raises EncodingError, or RequestError if a prediction is too large.
    """
    events = [
        _encode_error(request, index, value)
        if isinstance(value, RequestError)
        else _encode_part(index, value)
        for index, value in enumerate(values)
    ]
    return _respond(request, iter(events))


def _respond(request: Request, events: Iterator[str]) -> Response:
    chunks = Chunks(_to_chunks(request, events))
    return Response(HTTPStatus.OK, "", content_type=request.stream_type, chunks=chunks)


def _to_chunks(request: Request, events: Iterator[str]) -> Generator[str, None, None]:
    """Yield events as server-sent events or JSON lines; raise RequestError in place of the first."""
    template = "data: {}\n\n" if request.stream_type == EVENT_STREAM else "{}\n"
    is_first = True
    try:
        for event in events:
            yield template.format(event)
            is_first = False
    except RequestError as error:
        if is_first:
            raise
        yield template.format(envelope.format_error(error).body)
    finally:
        _close(events)


def _encode_parts(
    task: AdaptedTask, preprocessed: Preprocessed, failures: Failures
) -> Generator[str, None, None]:
    """Yield the event of each part; raise RequestError if an instance fails the request."""
    request, samples = preprocessed
    for index, sample in enumerate(samples):
        if isinstance(sample, RequestError):
            yield _encode_error(request, index, sample)
            continue
        parts, has_begun = _iterate(task, sample, request.parameters), False
        try:
            for part in parts:
                yield _encode_part(index, part)
                has_begun = True
        except EncodingError as error:
            yield _encode_error(request, index, failures.to_internal_error(str(error), error))
        except RequestError as error:
            yield _encode_error(request, index, error)
        except Exception as error:  # noqa: BLE001  a task may raise anything; it is logged
            if has_begun and not isinstance(error, (BadInstance, BadParameter)):
                reason = failures.to_task_error("stream", error)
            else:  # an instance or parameters unlike those of the examples may be the cause
                instance, parameters = request.instances[index], request.parameters
                reason = failures.to_request_error("stream", error, instance, parameters)
            yield _encode_error(request, index, reason)
        finally:
            _close(parts)


def _iterate(
    task: AdaptedTask, sample: Any, parameters: dict[str, Any]
) -> Generator[Any, None, None]:
    """Yield the parts of a prediction, each computed without gradients; close the task's generator at the end."""
    assert task.stream is not None
    with torch.inference_mode():
        on_device = move(sample, task.device) if task.has_accelerator else sample
        parts = iter(task.stream(on_device, parameters))
    end = object()
    try:
        while True:
            with torch.inference_mode():  # not while other requests are answered
                part = next(parts, end)
            if part is end:
                return
            yield part
    finally:
        _close(parts)


def _close(iterator: Iterator[Any]) -> None:
    """Run the `finally` blocks of a generator that has not ended; log what they raise."""
    if not isinstance(iterator, Generator):
        return
    try:
        iterator.close()
    except Exception:  # a task may raise anything, and the response is complete without it
        log.exception("closing a stream failed")


def _encode_part(index: int, part: Any) -> str:
    event = f'{{"instance":{index},"part":{encode_prediction(part)}}}'
    if len(event) > MAX_RESPONSE_BYTES:
        raise InternalError(
            f"a part of the stream has {len(event)} bytes, the limit is {MAX_RESPONSE_BYTES}"
        )
    return event


def _encode_error(request: Request, index: int, error: RequestError) -> str:
    """Return the event of a failed instance; raise the error of the request if it does not continue."""
    if request_error := find_request_error(request, [*[None] * index, error]):
        raise request_error
    return json.dumps({"instance": index, **envelope.error_object(error)}, separators=(",", ":"))
