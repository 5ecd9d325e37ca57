"""A raw body is one instance where the task accepts its content type."""

import json
from collections.abc import Sequence
from typing import Any, TypedDict

import pytest
import torch
from torch import Tensor
from ts.context import Context, RequestProcessor

from handler import bodies, vertex_handler
from handler.errors import LoadError, RequestError
from handler.vertex_handler import VertexHandler
from task import BadInstance
from task.adapter import TaskError, adapt

Item = tuple[dict[str, Any], str | None, dict[str, str]]
"""What TorchServe passes of a request: its data, the content type of its body, and its headers."""


class Size(TypedDict):
    """The instance as JSON."""

    size: int


class Sizes:
    """Returns the size of its instance, and the type in which it came."""

    accepts: Sequence[str] = ("image/png", "text/*", "Audio/WAV")

    def preprocess(self, instance: Size | bytes) -> Any:
        if isinstance(instance, (bytes, str)):
            return type(instance).__name__, len(instance)
        return "Size", instance["size"]

    def inference(self, batch: Any) -> Any:
        kinds, sizes = batch
        return list(zip(kinds, sizes.tolist(), strict=True))

    def postprocess(self, output: Any) -> Any:
        return output


def predict(
    task: Any, body: bytes, content_type: str | None = None, **headers: str
) -> tuple[int, Any]:
    """Return the status of a request and its first prediction or the message of its error."""
    [response] = handle(task, [({"body": body}, content_type, headers)])
    return response


def handle(task: Any, requests: list[Item]) -> list[tuple[int, Any]]:
    """Return for each request of a batch what `predict` returns."""
    context = Context("model", "/", {}, len(requests), None, "0.12.0")
    properties: list[dict[str, Any]] = []
    for item, content_type, headers in requests:
        of_body = {"body": {"content-type": content_type or ""}} if item else {}
        properties.append({**headers, **of_body})
    context.request_processor = [RequestProcessor(each) for each in properties]
    handler = VertexHandler()
    handler.task = adapt(task)
    answers = handler.handle([item for item, _, _ in requests], context)
    found = []
    for answer, processor in zip(answers, context.request_processor, strict=True):
        assert isinstance(answer, str)
        document = json.loads(answer)
        prediction = document["predictions"][0] if "predictions" in document else None
        code = processor.get_response_status_code()
        found.append((code, prediction or document["error"]["message"]))
    return found


JSON_BODY = b'{"instances": [{"size": 4}]}'


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (JSON_BODY, None, ["Size", 4]),
        (JSON_BODY, "Application/JSON; charset=utf-8", ["Size", 4]),
        (b"\xff\x00", "image/png", ["bytes", 2]),
        (b"\xff\x00", "audio/wav", ["bytes", 2]),
        ("é!".encode(), "text/csv; charset=utf-8", ["str", 2]),
        (b"", "image/png", ["bytes", 0]),
    ],
)
def test_body_is_one_instance_if_the_task_accepts_its_type(
    body: bytes, content_type: str | None, expected: Any
) -> None:
    assert predict(Sizes(), body, content_type) == (200, expected)


@pytest.mark.parametrize(
    "content_type",
    ["image/jpeg", "application/octet-stream", "application/x-www-form-urlencoded", "rubbish"],
)
def test_other_type_gets_415_that_names_it_and_those_that_are_accepted(content_type: str) -> None:
    message = (
        f"Content-Type: expected application/json, image/png, text/*, audio/wav; got {content_type}"
    )
    assert predict(Sizes(), JSON_BODY, content_type) == (415, message)
    with pytest.raises(RequestError) as caught:
        bodies.parse_request(adapt(Sizes()), b"", content_type)
    assert (caught.value.code, caught.value.status) == (415, "INVALID_ARGUMENT")


def test_task_without_accepts_takes_json_only() -> None:
    class Plain(Sizes):
        accepts = ()

    message = "Content-Type: expected application/json; got image/png"
    assert predict(Plain(), b"", "image/png") == (415, message)


def test_text_that_is_not_utf8_gets_400() -> None:
    code, message = predict(Sizes(), b"\xff", "text/plain")
    assert code == 400
    assert message.startswith("the body is not UTF-8: ")


def test_form_that_torchserve_has_decoded_gets_415() -> None:
    form = "application/x-www-form-urlencoded"
    [(code, message)] = handle(Sizes(), [({}, None, {"content-type": form})])
    assert code == 415
    assert message.endswith(f"got {form}")


def test_text_that_torchserve_has_decoded_is_the_instance() -> None:
    assert handle(Sizes(), [({"body": "é!"}, "text/plain", {})]) == [(200, ["str", 2])]


def test_raw_and_json_requests_share_a_batch_and_a_415_affects_no_other() -> None:
    requests: list[Item] = [
        ({"body": b"123"}, "image/png", {}),
        ({"body": b"123"}, "image/gif", {}),
        ({"body": JSON_BODY}, "application/json", {}),
    ]
    codes = [code for code, _ in handle(Sizes(), requests)]
    assert codes == [200, 415, 200]


def test_json_instance_is_still_compared_with_the_type_hint() -> None:
    code, message = predict(Sizes(), b'{"instances": [{"size": "4"}]}')
    assert code == 400
    assert message == "instances[0]: size: expected an integer; got a string"


def test_raw_text_is_compared_with_a_hint_for_texts() -> None:
    class Text(Sizes):
        def preprocess(self, instance: str) -> Any:  # type: ignore[override]
            return "str", len(instance)

    assert predict(Text(), b"abc", "text/plain") == (200, ["str", 3])
    assert predict(Text(), b'{"instances": [3]}')[0] == 400


def test_task_that_fails_on_a_raw_body_gets_500_unless_it_raises_bad_instance() -> None:
    class Failing(Sizes):
        def preprocess(self, instance: Size | bytes) -> Tensor:
            if instance == b"bad":
                raise BadInstance("too small")
            return torch.tensor([instance["size"]])  # type: ignore[call-overload]

    assert predict(Failing(), b"x", "image/png") == (500, "instances[0]: preprocessing failed")
    assert predict(Failing(), b"bad", "image/png") == (400, "instances[0]: too small")


@pytest.mark.parametrize("accepts", ["image/png", ["png"], ["application/json"], ["image/p*"], [3]])
def test_accepts_that_is_no_list_of_content_types_is_an_error(accepts: Any) -> None:
    task = Sizes()
    task.accepts = accepts
    with pytest.raises(TaskError, match="accepts: expected a list of content types"):
        adapt(task)


@pytest.mark.parametrize(
    "error", [RuntimeError("weights do\nnot fit"), MemoryError("no room"), SystemExit("no licence")]
)
def test_any_exception_while_loading_ends_the_worker_with_its_text(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(vertex_handler, "load_and_check", fail)
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    with pytest.raises(LoadError, match=f"^{reason}$"):
        VertexHandler().initialize(Context("model", "/", {}, 1, None, "0.12.0"))
    assert caplog.messages == [f"cannot serve this archive: {reason}"]
