"""Check the model in the working folder, which holds what its archive would: a JSON object for each result.

`authoring.check` runs it, so that `handler`, `task` and the model are imported from the working folder alone, as
in a worker, and prints its results.
"""

import contextlib
import itertools
import json
import logging
import os
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, TextIO

import torch

from handler import batch, bodies, comparison, envelope
from handler.envelope import Request
from handler.loading import load_model
from task import BadInstance
from task.adapter import AdaptedTask
from task.images import decode_base64
from task.requests_file import Example

FOLDER = Path.cwd()
SOURCE = Path(sys.argv[-1])
"""The model's own folder, for messages."""
OWN_PACKAGES = ("handler", "task")
"""Packages of the archive that are not the model's."""
MAX_REPORTED = 5
"""Failures that are printed for one check."""
REPEAT_TOLERANCE = 1e-5
"""Of the same request, alone, in the same process."""
HUGE_CHARS = 1_000_000
"""Size of a huge instance: a request to an endpoint may have 1.5 MB."""
HUGE_TIMEOUT_S = 30
HUGE_MEMORY_BYTES = 4 << 30
"""What the model may allocate for a huge instance."""
BATCH_SIZES = (1, 8, 32)
MAX_RUNS, MAX_TIMING_S = 5, 1.0
"""Each batch size is measured this often, or until this time is used."""
MAX_STREAM_PARTS = 10_000
MIN_GAIN = 1.3
"""How many times as many requests a second make batching worth its delay."""
TYPE_NAMES = {str: "a string", bool: "a boolean", list: "an array", dict: "an object"}


class Reporter:
    """Writes results as JSON lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, **event: Any) -> None:
        """Write one line."""
        self._stream.write(json.dumps(event) + "\n")
        self._stream.flush()

    def check(
        self, text: str, run: Callable[[], Iterable[str]], name: str = "", timeout_s: int = 0
    ) -> bool:
        """Run a check, an iterable of failures; report it, and return whether it passed.

        `authoring.check` ends this program after `timeout_s`, or after a time of its own.
        """
        self.write(begin=text, timeout_s=timeout_s)
        failures = list(run())
        if len(failures) > MAX_REPORTED:
            more = len(failures) - MAX_REPORTED
            failures[MAX_REPORTED:] = [f"and {more} more"]
        self.write(status="FAIL" if failures else "PASS", text=text, details=failures, name=name)
        return not failures

    def note(self, text: str, *details: str) -> None:
        """Report something that is neither right nor wrong."""
        self.write(status="NOTE", text=text, details=details)


class ErrorLog(logging.Handler):
    """Keeps the last exception that the handler logged: the response has only its text."""

    def __init__(self) -> None:
        super().__init__()
        self.last: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record's exception."""
        if record.exc_info and record.exc_info[1]:
            self.last = record.exc_info[1]


class ModelChecker:
    """Sends requests to a loaded model."""

    def __init__(self, task: AdaptedTask, errors: ErrorLog) -> None:
        self.task, self._errors = task, errors
        self.examples = task.examples
        self.predictions: dict[str, Any] = {}
        """The prediction of each example that has one, by the example's name."""
        self.raw_examples: dict[str, Example] = {}
        """For each content type of a raw body the example that is sent as one, if there is any."""
        for content_type in task.accepts:
            matching = [e for e in self.examples if to_raw(e.instance, content_type) is not None]
            for example in sorted(matching, key=lambda each: bool(each.parameters))[:1]:
                self.raw_examples[content_type] = example
        self.accepted: list[str] = []
        """Descriptions of the wrong instances that got a prediction."""

    def predict_alone(self) -> Iterator[str]:
        """Predict each example; yield failures."""
        for example in self.examples:
            [(code, result)] = self._predict([example.body])
            if code == HTTPStatus.OK:
                self.predictions[example.name] = result
            else:
                yield f"{example.name}: {int(code)}: {result}"

    def predict_again(self) -> Iterator[str]:
        """Predict each example twice again; yield differences."""
        for example in self._predicted():
            first = self.predictions[example.name]
            for _ in range(2):
                [(code, result)] = self._predict([example.body])
                if found := _compare(code, result, first, REPEAT_TOLERANCE):
                    yield f"{example.name}: {found}"
                    break

    def predict_together(self) -> Iterator[str]:
        """Predict all examples in one batch, in both orders; yield differences from those alone."""
        examples = self._predicted()
        for order, selected in (("in order", examples), ("reversed", examples[::-1])):
            results = self._predict([each.body for each in selected], is_isolating=False)
            failures = [
                f"{example.name}, {order}: {found}"
                for example, (code, result) in zip(selected, results, strict=True)
                if (
                    found := _compare(
                        code, result, self.predictions[example.name], example.tolerance
                    )
                )
            ]
            yield from failures
            if failures:
                return

    def compare_expected(self) -> Iterator[str]:
        """Yield how predictions differ from the expected ones."""
        for example in self._predicted():
            if example.has_check:
                prediction = self.predictions[example.name]
                differences = comparison.find_differences(
                    prediction, example.expected, example.tolerance
                )
                if differences:
                    yield f"{example.name}: {'; '.join(differences[:3])}"

    def predict_wrong(self, instances: Iterable[tuple[str, Any]]) -> Iterator[str]:
        """Yield the instances that get a 500; the text of an instance describes it."""
        parameters = self.examples[0].parameters
        for description, instance in instances:
            body = {"instances": [instance], "parameters": parameters}
            [(code, result)] = self._predict([body])
            if code >= HTTPStatus.INTERNAL_SERVER_ERROR:
                yield f"{description}: {int(code)}: {result}"
            elif code == HTTPStatus.OK:
                self.accepted.append(description)

    def predict_wrong_parameters(self) -> Iterator[str]:
        """Yield the parameters that get a 500."""
        used = {name: value for each in self.examples for name, value in each.parameters.items()}
        wrong = {name: _other_type(value) for name, value in used.items()} | {"no_such_name": 1}
        for name, value in wrong.items():
            parameters = {**self.examples[0].parameters, name: value}
            body = {"instances": [self.examples[0].instance], "parameters": parameters}
            [(code, result)] = self._predict([body])
            if code >= HTTPStatus.INTERNAL_SERVER_ERROR:
                yield f"{json.dumps({name: value})}: {int(code)}: {result}"

    def stream(self) -> Iterator[str]:
        """Run the task's stream for the first example; yield failures."""
        example = self.examples[0]
        body = {**example.body, "parameters": {**example.parameters, "stream": True}}
        self._errors.last = None
        [response] = batch.predict_batch(self.task, [envelope.parse_document(body)])
        if response.chunks is None:
            yield f"{example.name}: {self._describe_error(response.body)}"
            return
        events = list(itertools.islice(response.chunks, MAX_STREAM_PARTS))
        response.chunks.close()
        if not events:
            yield f"{example.name}: no part"
        elif "error" in json.loads(events[-1]):
            yield f"{example.name}: {self._describe_error(events[-1])}"
        elif len(events) == MAX_STREAM_PARTS:
            yield f"{example.name}: no end after {len(events)} parts"

    def explain(self) -> Iterator[str]:
        """Explain the prediction of each example; yield failures."""
        for example in self.examples:
            parameters = {**example.parameters, "explain": True}
            [(code, result)] = self._predict([{**example.body, "parameters": parameters}])
            if code != HTTPStatus.OK:
                yield f"{example.name}: {int(code)}: {result}"

    def predict_raw(self) -> Iterator[str]:
        """Send instances as raw bodies of the accepted types; yield how predictions differ from those as JSON."""
        for content_type, example in self.raw_examples.items():
            body = to_raw(example.instance, content_type)
            assert body is not None
            request = bodies.parse_request(self.task, body, content_type)
            [(code, result)] = self._predict_requests([request])
            first = self.predictions.get(example.name)
            if code >= HTTPStatus.INTERNAL_SERVER_ERROR:
                yield f"{content_type}: {int(code)}: {result}"
            elif first is None or example.parameters:  # a raw body has no parameters
                continue
            elif found := _compare(code, result, first, example.tolerance):
                yield f"{content_type}, with the instance of {example.name}: {found}"

    def describe_requests(self) -> list[dict[str, Any]]:
        """Return what `authoring.check --write` needs of each example."""
        described = []
        for each in self.examples:
            request = {"is_compared": each.has_check, "tolerance": each.tolerance}
            if each.name in self.predictions:
                request["prediction"] = self.predictions[each.name]
            described.append(request)
        return described

    def measure(self) -> dict[int, float]:
        """Return the median milliseconds of a batch by its size."""
        bodies = [each.body for each in self._predicted()]
        times_ms: dict[int, float] = {}
        for size in BATCH_SIZES:
            # The larger sizes of a slow model are left out.
            if times_ms and times_ms[1] * size / 1000 > 2 * MAX_TIMING_S:
                break
            requests = [bodies[index % len(bodies)] for index in range(size)]
            durations_s: list[float] = []
            self._predict(requests)  # the first run of a size is slower
            while len(durations_s) < MAX_RUNS and sum(durations_s) < MAX_TIMING_S:
                start_s = time.perf_counter()
                self._predict(requests)
                durations_s.append(time.perf_counter() - start_s)
            times_ms[size] = statistics.median(durations_s) * 1000
        return times_ms

    def _predicted(self) -> list[Example]:
        return [each for each in self.examples if each.name in self.predictions]

    def _predict(
        self, documents: list[dict[str, Any]], *, is_isolating: bool = True
    ) -> list[tuple[HTTPStatus, Any]]:
        """Return for each request its status, and its prediction or the reason of the failure."""
        requests = [envelope.parse_document(document) for document in documents]
        return self._predict_requests(requests, is_isolating=is_isolating)

    def _predict_requests(
        self, requests: list[Request], *, is_isolating: bool = True
    ) -> list[tuple[HTTPStatus, Any]]:
        self._errors.last = None
        return [
            (response.code, json.loads(response.body)["predictions"][0])
            if response.code == HTTPStatus.OK
            else (response.code, self._describe_error(response.body))
            for response in batch.predict_batch(self.task, requests, is_isolating=is_isolating)
        ]

    def _describe_error(self, body: str) -> str:
        """Return the reason of a failure: for a 500 the exception that was logged, else the error's message."""
        error = json.loads(body)["error"]
        if error["code"] >= HTTPStatus.INTERNAL_SERVER_ERROR and self._errors.last:
            return describe(self._errors.last)
        return str(error["message"])


def _compare(code: HTTPStatus, result: Any, expected: Any, tolerance: float) -> str:
    """Return how a response differs from a prediction, "" if it does not."""
    if code != HTTPStatus.OK:
        return f"{int(code)}: {result}"
    differences = comparison.find_differences(result, expected, tolerance)
    differences = differences or comparison.find_differences(expected, result, tolerance)
    return "; ".join(differences[:2])


def describe(error: BaseException) -> str:
    """Return an exception in one line, with the last line of the model's own files that raised it."""
    message = " ".join(str(error).split()).replace(str(FOLDER), str(SOURCE))
    text = f"{type(error).__name__}: {message}"
    if isinstance(error, SyntaxError) and error.filename:
        file = SOURCE / Path(error.filename).name
        return f"{file}:{error.lineno}: {type(error).__name__}: {error.msg}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(FOLDER):
            relative = path.relative_to(FOLDER)
            if relative.parts[0] not in OWN_PACKAGES:
                return f"{SOURCE / relative}:{frame.lineno}: {text}"
    return text


def to_raw(instance: Any, content_type: str) -> bytes | None:
    """Return an instance as a raw body of a type, or None: a text as text/*, {"b64": "..."} as all others."""
    if content_type.startswith("text/"):
        return instance.encode() if isinstance(instance, str) else None
    text = instance.get("b64") if isinstance(instance, dict) else None
    with contextlib.suppress(BadInstance):
        return decode_base64(text) if isinstance(text, str) else None
    return None


def list_wrong_instances(instance: Any) -> list[tuple[str, Any]]:
    """Return instances of other types than the given one, with descriptions."""
    wrong: list[Any] = [None, 3, "", {}, []]
    return [(json.dumps(each), each) for each in wrong if each != instance]


def list_changed_instances(instance: Any) -> list[tuple[str, Any]]:
    """Return variants of an instance: without one of its keys, or with another type of one value."""
    variants: list[tuple[str, Any]] = []
    whole = _round(instance)  # many clients write 1.0 as 1
    if json.dumps(whole) != json.dumps(instance):
        variants.append(("its numbers are integers", whole))
    if isinstance(instance, list) and instance:
        changed = [_other_type(instance[0]), *instance[1:]]
        variants.append((f"[0] is {_name_type(changed[0])}", changed))
    if not isinstance(instance, dict):
        return variants
    for key, value in instance.items():
        rest = {name: each for name, each in instance.items() if name != key}
        other = _other_type(value)
        variants += [
            (f"without {key}", rest),
            (f"{key} is {_name_type(other)}", {**instance, key: other}),
            (f"{key} is null", {**instance, key: None}),
        ]
    return variants


def enlarge(value: Any) -> Any:
    """Return a value with its texts and arrays repeated up to about HUGE_CHARS characters of JSON."""
    if isinstance(value, str) and value:
        return (value * (HUGE_CHARS // len(value) + 1))[:HUGE_CHARS]
    if isinstance(value, list) and value:
        return value * (HUGE_CHARS // len(json.dumps(value)) + 1)
    if isinstance(value, dict):
        longest = max(value, key=lambda key: len(json.dumps(value[key])), default=None)
        return {key: enlarge(each) if key == longest else each for key, each in value.items()}
    return value


def _round(value: Any) -> Any:
    """Return a value with integers in the place of its floats."""
    if isinstance(value, dict):
        return {key: _round(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_round(each) for each in value]
    return int(value) if isinstance(value, float) else value


def _other_type(value: Any) -> Any:
    return 3 if isinstance(value, str | list | dict) else "text"


def _name_type(value: Any) -> str:
    return "null" if value is None else TYPE_NAMES.get(type(value), "a number")


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Let an allocation of more than HUGE_MEMORY_BYTES fail, instead of taking the machine's memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with contextlib.suppress(OSError, ValueError):  # without /proc there is no limit
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + HUGE_MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def main() -> None:
    """Load the model, run the checks and report them."""
    # What the model prints must not be mixed with the results.
    reporter = Reporter(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)
    errors = ErrorLog()
    logging.getLogger().addHandler(errors)
    without_model = set(sys.modules)
    loads = "the model loads from what its archive holds"
    reporter.write(begin=loads)
    start_s = time.perf_counter()
    try:
        task = load_model(FOLDER, torch.device("cpu"))
    except Exception as error:  # noqa: BLE001  a model may raise anything
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        details = [describe(error)]
        reporter.write(status="FAIL", text=loads, details=details, missing_module=missing)
        return
    reporter.write(
        status="PASS", text=f"{loads} ({time.perf_counter() - start_s:.1f} s)", details=[]
    )
    if not task.examples:
        expected = 'expected [{"instance": ..., "expected": ...}, ...] with two or more requests'
        details = [f"{SOURCE / 'requests.json'} does not exist; {expected}"]
        reporter.write(status="FAIL", text="there are requests to send", details=details)
        return
    checker = ModelChecker(task, errors)
    _run_checks(checker, reporter)
    reporter.write(modules=_list_modules(set(sys.modules) - without_model))
    _run_huge(checker, reporter)  # last, because it may have to be ended


def _run_checks(checker: ModelChecker, reporter: Reporter) -> None:
    task, first = checker.task, checker.examples[0].instance
    reporter.check("each request gets a prediction", checker.predict_alone)
    is_stable = True
    if checker.predictions:
        text = "the same request gets the same prediction again (no state, no randomness)"
        is_stable = reporter.check(text, checker.predict_again)
        text = "a batch gets the predictions that its requests get alone, in any order"
        reporter.check(text, checker.predict_together)
        if any(each.has_check for each in checker.examples):
            text = "the predictions are the expected ones"
            reporter.check(text, checker.compare_expected, name="expected")
    reporter.write(requests=checker.describe_requests(), is_stable=is_stable)
    wrong, changed = list_wrong_instances(first), list_changed_instances(first)
    text = "wrong instances get a 4xx, not a 500 (null, 3, empty ones)"
    reporter.check(text, lambda: checker.predict_wrong(wrong))
    if checker.accepted:
        reporter.note(f"these instances get a prediction: {', '.join(checker.accepted)}")
    if changed:
        text = f"variants of the first instance get no 500 ({len(changed)} of them)"
        reporter.check(text, lambda: checker.predict_wrong(changed))
    reporter.check("wrong parameters get no 500", checker.predict_wrong_parameters)
    if checker.raw_examples:
        types = ", ".join(checker.raw_examples)
        reporter.check(f"raw bodies get the predictions of JSON ({types})", checker.predict_raw)
    if unchecked := [each for each in task.accepts if each not in checker.raw_examples]:
        reporter.note(f"no request has an instance to send as {', '.join(unchecked)}")
    if task.stream is not None:
        reporter.check("the stream ends, and each of its parts is JSON", checker.stream)
    if task.explain is not None:
        reporter.check("each prediction has an explanation, which is JSON", checker.explain)
    if checker.predictions:
        # As one worker of many: on a busy machine several threads wait for each other.
        torch.set_num_threads(1)
        reporter.note(_describe_times(checker.measure()))
    task.schema.observe(list(checker.predictions.values()))
    schema = task.schema.to_json()
    reporter.note("schema", *(f"{key}: {json.dumps(value)}" for key, value in schema.items()))


def _run_huge(checker: ModelChecker, reporter: Reporter) -> None:
    first = checker.examples[0].instance
    huge = enlarge(first)
    if huge == first:
        huge = "x" * HUGE_CHARS
    text = (
        f"an instance of {HUGE_CHARS:,} characters gets a prediction or a 4xx in {HUGE_TIMEOUT_S} s"
    )
    with limited_memory():
        reporter.check(
            text,
            lambda: checker.predict_wrong([("it", huge)]),
            timeout_s=HUGE_TIMEOUT_S,
        )


def _describe_times(times_ms: dict[int, float]) -> str:
    listed = ", ".join(f"{size}: {_format_ms(ms)} ms" for size, ms in times_ms.items())
    text = f"a batch of {listed}, with one thread"
    largest = max(times_ms)
    if largest == 1:
        return f"{text}; larger ones are not measured"
    gain = largest * times_ms[1] / times_ms[largest]
    verdict = "batching pays" if gain >= MIN_GAIN else "batching does not pay"
    return f"{text}; {verdict}: {gain:.1f} times as many requests a second at {largest}"


def _format_ms(ms: float) -> str:
    return f"{ms:.3g}" if ms < 1000 else f"{ms:.0f}"


def _list_modules(names: Iterable[str]) -> list[str]:
    """Return the top-level names of these imported modules that are not files of the model."""
    files = {name: getattr(sys.modules[name], "__file__", None) for name in names}
    return sorted(
        {
            name.partition(".")[0]
            for name, file in files.items()
            if file and not Path(file).is_relative_to(FOLDER)
        }
    )


if __name__ == "__main__":
    main()
