"""The handler of an adapted stock archive: JSON through the envelope, raw bodies without it, streams."""

import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ts.context import RequestProcessor
from ts.model_loader import TsModelLoader
from ts.service import Service

from serving.stock import manifest
from tests.stock import archive

HANDLER = Path(archive.__file__).with_name("streaming_handler.py")


class Connection:
    """Keeps what a handler writes to TorchServe."""

    def __init__(self) -> None:
        self.sent = b""

    def sendall(self, message: bytes) -> None:
        self.sent += message


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """Load an adapted archive as TorchServe's worker does."""
    folder = tmp_path_factory.mktemp("archive")
    with zipfile.ZipFile(archive.pack(folder, HANDLER)) as contents:
        contents.extractall(folder / "model")
    manifest.adapt(folder / "model", "model")
    handler = manifest.ADAPTED_HANDLER
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder / "model"))
        metrics = SimpleNamespace(set_request_ids=lambda _: None)
        return TsModelLoader().load(
            "model", str(folder / "model"), handler, None, 4, None, True, metrics
        )


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
