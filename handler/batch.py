"""Run the instances of many requests through the model in one pass.

A failure affects only the instance that caused it: every other instance gets its prediction.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch

from handler import envelope, explanation, streaming
from handler.envelope import Request, Response
from handler.error_report import find_request_error
from handler.errors import RequestError
from handler.failures import Failures
from handler.json_output import EncodingError, encode_prediction
from handler.passes import Failure, run_passes
from handler.preprocessing import Preprocessed, TimeBudget, preprocess_requests
from task import JSON
from task.adapter import AdaptedTask


class Timings(NamedTuple):
    """When the steps of a batch began and ended, in nanoseconds since 1970."""

    preprocessing_start_ns: int
    """Parsing and preprocessing began."""
    inference_start_ns: int
    """Preprocessing ended and inference began."""
    postprocessing_start_ns: int
    """Inference ended and postprocessing began."""
    end_ns: int
    instances: int
    """The number of instances in the passes."""


def predict_batch(
    task: AdaptedTask,
    requests: Iterable[Request | RequestError],
    on_timings: Callable[[Timings], None] | None = None,
    *,
    is_isolating: bool = True,
) -> list[Response]:
    """Return a response for each request, in their order.

    A request that could not be parsed is passed as its error. If `requests` is a generator that parses,
    the timings include parsing. If a pass through the model fails, its samples run again one by one, unless
    `is_isolating` is false.
    """
    preprocessing_start_ns = time.time_ns()
    failures = Failures(task)
    checked = [explanation.check_request(task, request) for request in requests]
    budget = explanation.start_budget(checked)
    preprocessed = preprocess_requests(task, checked, failures)
    samples = [
        sample
        for request in preprocessed
        if isinstance(request, Preprocessed) and _needs_pass(task, request)
        for sample in request.samples
        if not isinstance(sample, RequestError)
    ]
    inference_start_ns = time.time_ns()
    with torch.inference_mode():  # in postprocess too, so that it may change an output in place
        outputs = iter(run_passes(task, samples, failures, is_isolating=is_isolating))
        postprocessing_start_ns = time.time_ns()
        responses = [
            _build_response(task, each, outputs, budget, failures) for each in preprocessed
        ]
    if on_timings is not None:
        starts_ns = (preprocessing_start_ns, inference_start_ns, postprocessing_start_ns)
        on_timings(Timings(*starts_ns, time.time_ns(), len(samples)))
    return responses


def _build_response(
    task: AdaptedTask,
    preprocessed: Preprocessed | RequestError,
    outputs: Iterator[Any | Failure],
    budget: TimeBudget,
    failures: Failures,
) -> Response:
    if isinstance(preprocessed, RequestError):
        return envelope.format_error(preprocessed)
    if _has_parts(task, preprocessed):
        return streaming.stream_parts(task, preprocessed, failures)
    request = preprocessed.request
    try:
        if request.is_explained:
            values = explanation.explain_samples(task, preprocessed, budget, failures)
        else:
            values = _predict(task, preprocessed, outputs, failures)
    except RequestError as error:
        return envelope.format_error(error)
    try:
        return _format(request, values, failures)
    except EncodingError:
        values = [_check_encoding(value, failures) for value in values]
        return _format(request, values, failures)


def _predict(
    task: AdaptedTask,
    preprocessed: Preprocessed,
    outputs: Iterator[Any | Failure],
    failures: Failures,
) -> list[Any | RequestError]:
    """Return the prediction for each instance of a request, or its error; raise the error of the whole request."""
    request, samples = preprocessed
    # Take this request's outputs before anything can fail, because those of the next request follow.
    results = [each if isinstance(each, RequestError) else next(outputs) for each in samples]
    if failures.has_any:
        results = [
            failures.to_request_error(*each, instance, request.parameters)
            if isinstance(each, Failure)
            else each
            for each, instance in zip(results, request.instances, strict=True)
        ]
        if error := find_request_error(request, results):
            raise error
    return [
        each
        if isinstance(each, RequestError)
        else _postprocess(task, each, instance, request.parameters, failures)
        for each, instance in zip(results, request.instances, strict=True)
    ]


def _needs_pass(task: AdaptedTask, preprocessed: Preprocessed) -> bool:
    """Whether the response needs the output of `inference`."""
    return not (preprocessed.request.is_explained or _has_parts(task, preprocessed))


def _has_parts(task: AdaptedTask, preprocessed: Preprocessed) -> bool:
    """Whether the prediction is streamed by the task, without `inference`."""
    return task.stream is not None and preprocessed.request.stream_type != ""


def _format(request: Request, values: list[Any | RequestError], failures: Failures) -> Response:
    """Return the response for the predictions of a request; raise EncodingError."""
    if failures.has_any and (error := find_request_error(request, values)):
        return envelope.format_error(error)
    try:
        if request.stream_type:
            return streaming.stream_predictions(request, values)
        if failures.has_any:
            values = [
                envelope.error_object(value) if isinstance(value, RequestError) else value
                for value in values
            ]
        return envelope.format_predictions(encode_prediction(values), len(values))
    except RequestError as error:
        return envelope.format_error(error)


def _check_encoding(value: Any | RequestError, failures: Failures) -> Any | RequestError:
    """Return a prediction, or the error that says which part of it JSON cannot represent."""
    try:
        if not isinstance(value, RequestError):
            encode_prediction(value)
    except EncodingError as error:
        return failures.to_internal_error(str(error), error)
    return value


def _postprocess(
    task: AdaptedTask,
    output: Any,
    instance: JSON,
    parameters: dict[str, JSON],
    failures: Failures,
) -> Any | RequestError:
    try:
        return task.postprocess(output, parameters)
    except Exception as error:  # noqa: BLE001  a task may raise anything; it is logged
        return failures.to_request_error("postprocessing", error, instance, parameters)
