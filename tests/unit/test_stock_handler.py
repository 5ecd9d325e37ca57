"""The handler of an adapted stock archive: JSON through the envelope, raw bodies without it, streams."""

import json
import logging
import re
import shutil
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ts.context import RequestProcessor
from ts.model_loader import TsModelLoader
from ts.service import Service

from serving.stock import manifest
from serving.worker.serving_worker.limit import ResponseTimeoutError
from tests.stock import archive

HANDLER = Path(archive.__file__).with_name("streaming_handler.py")


class Connection:
    """Keeps what a handler writes to TorchServe."""

    def __init__(self) -> None:
        self.sent = b""

    def sendall(self, message: bytes) -> None:
        self.sent += message


def load(
    folder: Path, handler: str = manifest.ADAPTED_HANDLER, envelope: str | None = None
) -> Service:
    """Load an adapted archive, or its own handler, as TorchServe's worker does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        sys.modules.pop("faulty_handler", None)
        metrics = SimpleNamespace(set_request_ids=lambda _: None)
        return TsModelLoader().load("model", str(folder), handler, None, 4, envelope, True, metrics)


def adapt(folder: Path, handler: Path) -> Path:
    """Return the folder of an adapted archive with a handler."""
    with zipfile.ZipFile(archive.pack(folder, handler)) as contents:
        contents.extractall(folder / "model")
    manifest.adapt(folder / "model", "served")
    return folder / "model"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """Load the archive with the streaming handler."""
    return load(adapt(tmp_path_factory.mktemp("archive"), HANDLER))


@pytest.fixture(scope="module")
def faulty_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the adapted archive with the faulty handler."""
    return adapt(tmp_path_factory.mktemp("archive"), HANDLER.with_name("faulty_handler.py"))


@pytest.fixture(scope="module")
def faulty(faulty_archive: Path) -> Service:
    """Load the archive with the faulty handler."""
    return load(faulty_archive)


def handle(
    service: Service, *requests: tuple[Any, str]
) -> tuple[list[tuple[int, Any]], Connection]:
    """Return the status and body of each request of a batch, and what was sent before."""
    context, connection = service.context, Connection()
    items = [{} if body is None else {"body": bytearray(body)} for body, _ in requests]
    context.request_processor = [
        RequestProcessor({"body": {"content-type": kind}, "Content-Type": kind})
        for _, kind in requests
    ]
    context.request_ids = {index: f"request-{index}" for index in range(len(requests))}
    context.cl_socket = connection
    bodies = service._entry_point(items, context)
    codes = [each.get_response_status_code() for each in context.request_processor]
    return list(zip(codes, bodies, strict=True)), connection


def body(*instances: Any) -> tuple[bytes, str]:
    return json.dumps({"instances": instances}).encode(), "application/json"


def test_json_and_raw_bodies_share_a_batch(service: Service) -> None:
    answers, _ = handle(
        service,
        body(1, "two"),
        (b"\xff", "image/png"),
        ("é".encode(), "text/plain"),
        (b"\xff", "text/plain"),
    )
    assert answers == [
        (200, '{"predictions": ["int 1", "str two"]}'),
        (200, r"bytearray bytearray(b'\xff')"),
        (200, "str é"),
        (200, r"bytearray bytearray(b'\xff')"),
    ]
    types = [each.get_response_header("content-type") for each in service.context.request_processor]
    assert types == ["application/json", None, None, None]


@pytest.mark.parametrize("kind", ["multipart/form-data", "application/x-www-form-urlencoded"])
def test_form_gets_415_and_other_requests_their_answer(service: Service, kind: str) -> None:
    (bad, good), _ = handle(service, (None, kind), (b"a", "text/plain"))
    assert good == (200, "str a")
    assert bad[0] == 415
    assert f"got {kind}" in json.loads(bad[1])["error"]["message"]


def test_intermediate_response_names_its_request_where_others_are_left_out(
    service: Service,
) -> None:
    answers, connection = handle(
        service, (b"{", "application/json"), (b"a", "text/plain"), (b"stream", "text/plain")
    )
    assert [code for code, _ in answers] == [400, 200, 200]
    assert answers[2][1] == "str stream"
    assert connection.sent.count(b"request-2") == 1
    assert b"request-0" not in connection.sent
    assert b"request-1" not in connection.sent
    processor = service.context.request_processor[2]
    assert processor.get_response_header("ts_stream_next") == "true"


def test_request_whose_response_has_begun_is_not_repeated_after_a_failure(
    service: Service,
) -> None:
    answers, connection = handle(
        service, (b"stream", "text/plain"), (b"fail", "text/plain"), (b"a", "text/plain")
    )
    assert [code for code, _ in answers] == [500, 500, 200]
    assert connection.sent.count(b"first") == 1


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ("RuntimeError", r"RuntimeError: weights do not fit \(faulty_handler.py:\d+\)"),
        ("silent", r"RuntimeError: not logged \(faulty_handler.py:\d+\)"),
        ("MemoryError", r"MemoryError: no room \(faulty_handler.py:\d+\)"),
        ("exit", r"SystemExit: no licence \(faulty_handler.py:\d+\)"),
        (
            "import",
            r"ModuleNotFoundError: No module named 'package_of_nobody' \(faulty_handler.py:\d+\)",
        ),
        (
            "pickle",
            r"UnpicklingError: Weights only load failed: .*torch.nn.modules.linear.Linear.*NO_WEIGHTS_ONLY_LOAD=1 .*",
        ),
    ],
)
def test_failure_to_load_ends_the_worker_with_its_own_reason(
    faulty_archive: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: str,
    reason: str,
) -> None:
    monkeypatch.setenv("LOAD_FAILURE", failure)
    # What the handler changes is restored at the end.
    monkeypatch.setattr(logging.root.manager, "disable", 0)
    for name in ("", "vertex_stock_handler", "vertex_core.failures"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", logging.getLogger(name).handlers)
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    with pytest.raises(Exception, match=reason) as caught:
        load(faulty_archive)
    assert not isinstance(caught.value, (RuntimeError, MemoryError))  # TorchServe would answer them
    assert f"cannot serve this archive: {caught.value}" in caplog.messages


def message(answer: tuple[int, Any]) -> str:
    return str(json.loads(answer[1])["error"]["message"])


def predictions(answer: tuple[int, Any]) -> list[Any]:
    assert answer[0] == 200, answer
    found: list[Any] = json.loads(answer[1])["predictions"]
    return found


def test_handle_gets_the_context_that_initialize_got(faulty: Service) -> None:
    answers, _ = handle(faulty, (b"{", "application/json"), body("share_context"))
    assert predictions(answers[1]) == [["kept", "changed", "request-1", "model"]]


@pytest.mark.parametrize(
    ("chosen", "code", "status"),
    [
        (400, 400, "INVALID_ARGUMENT"),
        (404, 404, "NOT_FOUND"),
        (429, 429, "RESOURCE_EXHAUSTED"),
        (500, 500, "INTERNAL"),
        (503, 503, "UNAVAILABLE"),
        (513, 500, "INTERNAL"),  # not a status of HTTP
    ],
)
def test_prediction_exception_keeps_its_message_and_code(
    faulty: Service, chosen: int, code: int, status: str
) -> None:
    [answer], _ = handle(faulty, body(chosen))
    assert answer[0] == code
    assert json.loads(answer[1])["error"] == {
        "code": code,
        "status": status,
        "message": "chosen text",
    }


def test_missing_predictions_are_requested_one_by_one(faulty: Service) -> None:
    [answer], _ = handle(faulty, body("only_first", "b", {"c": 1}))
    assert predictions(answer) == ["only_first", "'b'", "{'c': 1}"]
    answers, _ = handle(faulty, body("only_first"), body("only_first"), body(3))
    assert [predictions(answer) for answer in answers] == [["only_first"], ["only_first"], ["3"]]


def test_error_status_of_the_handler_is_its_answer_to_the_whole_request(faulty: Service) -> None:
    [answer], _ = handle(faulty, body("unknown customer", 2))
    assert answer == (404, '{"predictions": [{"error": "unknown customer"}]}')
    answers, _ = handle(faulty, body("unknown customer"), body(2))
    assert answers == [answer, (200, '{"predictions": ["2"]}')]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ten", "returned 10 responses for 1 instance"),
        ("nothing", "returned 0 responses for 1 instance"),
        ("a_dict", "returned dict; expected a list with one response for each instance"),
    ],
)
def test_another_number_of_predictions_than_instances_is_a_500(
    faulty: Service, name: str, reason: str
) -> None:
    answers, _ = handle(faulty, body(name), body(1, 2))
    assert answers[0][0] == 500
    assert message(answers[0]).endswith(reason)
    assert predictions(answers[1]) == ["1", "2"]


def test_nan_is_passed_on_and_is_an_error_in_a_response(faulty: Service) -> None:
    answers, _ = handle(
        faulty, (b'{"instances": [[NaN, 1e400]]}', "application/json"), body("nan"), body("NaN")
    )
    assert predictions(answers[0]) == ["[nan, inf]"]
    answers, _ = handle(faulty, body("nan"), body("NaN"))
    assert answers[0][0] == 500
    assert "NaN, which is not a JSON number" in message(answers[0])
    assert predictions(handle(faulty, body("NaN"))[0][0]) == ["'NaN'"]


def test_parameters_and_the_number_of_instances_are_not_checked(faulty: Service) -> None:
    document = {"instances": list(range(5000)), "parameters": {"on_error": 1, "stream": "yes"}}
    [answer], _ = handle(faulty, (json.dumps(document).encode(), "application/json"))
    assert len(predictions(answer)) == 5000


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("cut_base64", 400, "an instance is not base64"),
        ("not_ascii", 400, "an instance is not base64"),
        ("exit", 500, "the archive's handler failed: SystemExit"),
        ("out of memory", 503, "the archive's handler is out of memory; send a smaller request"),
        ("not_text", 400, "an instance is not utf-8 text"),
        ("large", 500, "the response has 115"),
        (
            "tensor",
            500,
            "the archive's handler returned no JSON: Object of type Tensor is not JSON",
        ),
        ("panic", 500, "the archive's handler failed: PanicException"),
        ("own JSON", 500, "the archive's handler failed: TypeError"),
        ("attribute", 500, "the archive's handler failed: AttributeError"),
    ],
)
def test_failure_is_an_error_of_its_request_alone(
    faulty: Service, name: str, code: int, reason: str
) -> None:
    answers, _ = handle(faulty, body(name), body(1))
    assert answers[0][0] == code
    assert message(answers[0]).startswith(reason)
    assert predictions(handle(faulty, body(1))[0][0]) == ["1"]


def test_log_has_the_line_of_the_handler_that_failed(
    faulty: Service, caplog: pytest.LogCaptureFixture
) -> None:
    handle(faulty, body("attribute"))
    [line] = caplog.messages
    reason = "AttributeError: 'str' object has no attribute 'missing'"
    assert re.fullmatch(rf"the archive's handler failed: {reason} \(faulty_handler.py:\d+\)", line)


def test_handler_that_expects_objects_names_the_variable_that_makes_them(
    faulty: Service, caplog: pytest.LogCaptureFixture
) -> None:
    handle(faulty, body("get"))
    assert "set WRAP_INSTANCES=data" in caplog.messages[-1]


def test_data_url_is_a_400_that_says_what_to_send(faulty: Service) -> None:
    [answer], _ = handle(faulty, body({"b64": "data:image/png;base64,aGVsbG8="}))
    assert answer[0] == 400
    assert message(answer) == (
        "instances[0].b64: expected base64, got a data: URL; send only what follows the comma"
    )


def test_service_envelope_none_passes_the_whole_body(
    faulty_archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_ENVELOPE", "none")
    without = load(faulty_archive)
    answers, _ = handle(
        without, body(1), (b"[NaN]", "application/json"), (b"{", "application/json")
    )
    assert answers[:2] == [(200, "{'body': {'instances': [1]}}"), (200, "{'body': [nan]}")]
    assert answers[2][0] == 400
    monkeypatch.setattr(without._entry_point.__self__, "_handle_raw", lambda *_: [{1}])
    [answer], _ = handle(without, body(1))
    assert answer[0] == 500
    assert "returned no JSON: Object of type set" in message(answer)


def test_wrap_instances_makes_bare_instances_objects(
    faulty_archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRAP_INSTANCES", "data")
    wrapping = load(faulty_archive)
    answers, _ = handle(
        wrapping, body([5.1, 3.5], {"data": 1}), body({"b64": "aGk="}, {"data": {"b64": "aGk="}})
    )
    assert predictions(answers[0]) == ["{'data': [5.1, 3.5]}", "{'data': 1}"]
    assert predictions(answers[1]) == ["{'data': b'hi'}", "{'data': b'hi'}"]


def test_explain_sets_the_header_of_torchserves_explanations(faulty: Service) -> None:
    document = {"instances": ["explained", 2], "parameters": {"explain": True}}
    explain = json.dumps(document).encode(), "application/json"
    answers, _ = handle(faulty, body("explained"), explain)
    assert [predictions(answer) for answer in answers] == [[None], ["True", "True"]]


def test_limit_of_the_worker_is_no_failure_of_the_handler(
    faulty: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise ResponseTimeoutError

    monkeypatch.setattr(faulty._entry_point.__self__, "_handle_json", interrupt)
    with pytest.raises(ResponseTimeoutError):
        handle(faulty, body(1))


INSTANCES: list[list[Any]] = [
    [None, [], {}, True, 1.5, "é"],
    [-12345678901234567890123, float("inf")],
    [{"b64": "YWJj"}, {"x": 1}],
    [{"b64": ""}, {"b64": "YW Jj\n"}],
    [{"b64": "YWJj", "x": 1}],
    [{"a": {"b64": "YWJj"}, "c": 2}, {"a": {"b": {"b64": "YWJj"}}}],
    [{"data": [{"b64": "YWJj"}]}],
    [[1, {"b64": "YWJj"}]],
]


@pytest.mark.parametrize("instances", INSTANCES, ids=str)
def test_instances_are_passed_as_torchserves_own_envelope_passes_them(
    faulty_archive: Path, instances: list[Any]
) -> None:
    answers, _ = handle(load(faulty_archive), body(*instances))
    stock = load(faulty_archive, "faulty_handler.py", "json")
    stock.context.request_processor = [RequestProcessor({})]
    document = json.loads(body(*instances)[0])
    [expected] = stock._entry_point([{"body": document}], stock.context)
    assert predictions(answers[0]) == json.loads(expected)["predictions"]


def test_handler_that_is_not_in_the_archive_is_named(faulty_archive: Path, tmp_path: Path) -> None:
    shutil.copytree(faulty_archive, tmp_path / "model")
    (tmp_path / "model" / "faulty_handler.py").unlink()
    reason = "the handler faulty_handler.py is neither in the archive nor TorchServe's own"
    with pytest.raises(Exception, match=reason):
        load(tmp_path / "model")
