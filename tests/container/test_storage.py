"""AIP_STORAGE_URI: the container serves a model from a bucket or a mounted folder."""

import json
import re
import shutil
from pathlib import Path

import pytest

from emulator import containers
from emulator.config import EmulatorConfig
from tests import bucket, cases
from tests.container.conftest import DOCKER, HARDENED, VERTEX, Container, Start, wait_until_healthy
from tests.http import JSON_TYPE, Endpoint, wait_for
from tests.images import ARCHIVE, TOY, request_body
from tests.stock import archive as stock
from tests.torchserve.test_stock import ERRORS, SAME

WEIGHTS = ("weights.safetensors", "labels.json", "requests.json")
HEALTH, PREDICT = VERTEX["AIP_HEALTH_ROUTE"], VERTEX["AIP_PREDICT_ROUTE"]
pytestmark = pytest.mark.xdist_group("storage")


@pytest.fixture
def other_weights(tmp_path: Path) -> list[Path]:
    """Write weights of this project with other labels than the image's."""
    for name in WEIGHTS:
        shutil.copy(TOY / name, tmp_path)
    for name in ("labels.json", "requests.json"):
        text = json.dumps(json.loads((tmp_path / name).read_text()))
        (tmp_path / name).write_text(re.sub(r'"(\d)"', r'"digit \1"', text))
    return [tmp_path / name for name in WEIGHTS]


def mount_options(folder: Path) -> tuple[str, str]:
    """Return options that mount a folder at /mnt/model, readable by user 10001."""
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.chmod(0o644)
    return "--volume", f"{folder}:/mnt/model:ro"


def start_and_wait(start: Start, *options: str, **environ: str) -> tuple[Container, Endpoint]:
    container = start(*HARDENED, *options, **VERTEX | environ)
    wait_until_healthy(container.endpoint(9000, "/"), HEALTH)
    return container, container.endpoint(9000, PREDICT)


def test_weights_in_a_bucket_replace_those_in_the_image(
    start: Start, other_weights: list[Path]
) -> None:
    with bucket.storage_emulator(
        containers.bridge_address(EmulatorConfig(docker=DOCKER))
    ) as emulator:
        uri = bucket.create_bucket(emulator, "weights", "models/v1", *other_weights)
        container, endpoint = start_and_wait(
            start, AIP_STORAGE_URI=uri, STORAGE_EMULATOR_HOST=emulator
        )
    answer = endpoint.post(request_body(cases.INSTANCE))
    assert answer.code == 200, answer
    assert json.loads(answer.body)["predictions"][0]["label"].startswith("digit ")
    log = container.logs()
    assert f"fetched {uri}/weights.safetensors: " in log
    assert "checksum verified" in log


def test_stock_archive_in_a_mounted_folder_is_served_on_googles_default_routes(
    start: Start, tmp_path: Path
) -> None:
    stock.pack(tmp_path)
    container = start(*HARDENED, *mount_options(tmp_path), AIP_STORAGE_URI="/mnt/model")
    endpoint = container.endpoint(8080, "/predictions/model")
    wait_until_healthy(endpoint, "/ping")
    assert (
        "a stock archive without a golden request; health follows TorchServe's workers"
        in container.logs()
    )
    answer = endpoint.post(SAME["three pictures"])
    assert answer.code == 200, answer
    assert len(json.loads(answer.body)["predictions"]) == 3
    body, code, reason = ERRORS["cut base64"]
    answer = endpoint.post(body)
    assert (answer.code, reason in answer.body) == (code, True), answer


HANDLER = """
import getpass
import os

class Handler:
    def initialize(self, context):
        os.makedirs(os.path.expanduser("~/.cache/own"), exist_ok=True)
        self.initialized = getpass.getuser()

    def handle(self, data, context):
        if "print" not in data[0]:
            raise ValueError("the handler failed")
        print(data[0]["print"])
        return ["ok"]
"""


def test_log_stays_valid_whatever_a_handler_prints_or_raises(start: Start, tmp_path: Path) -> None:
    (tmp_path / "own_handler.py").write_text(HANDLER)
    stock.pack(tmp_path, tmp_path / "own_handler.py")
    container, endpoint = start_and_wait(
        start, *mount_options(tmp_path), AIP_STORAGE_URI="/mnt/model\r", TS_JVM="no"
    )
    assert "TS_JVM is not followed" in container.logs()
    trace = {"traceparent": f"00-{'5f' * 16}-00f067aa0ba902b7-01"}
    answer = endpoint.post(request_body({"raise": 1}), JSON_TYPE | trace)
    assert answer.code == 500, answer
    for printed in ('{"a":' * 3000, "\x00\ud800", "last"):
        endpoint.post(request_body({"print": printed}))
    wait_for(lambda: '"last"' in container.logs(), 10, "the last line")
    (line,) = [
        line
        for line in container.log_lines()
        if "ValueError: the handler failed" in line["message"]
    ]
    assert line["severity"] == "ERROR"
    assert line["requests"] == [answer.headers["x-request-id"]]
    assert line["logging.googleapis.com/trace"] == f"projects/1/traces/{'5f' * 16}"
    assert re.search(
        r'Traceback.*own_handler\.py", line \d+.*ValueError: the handler failed',
        line["message"],
        re.S,
    )
    assert line["logging.googleapis.com/labels"]["process"] == "worker"


@pytest.mark.full
def test_archive_in_a_mounted_folder_is_served_on_any_path_with_an_invoke_prefix(
    start: Start, tmp_path: Path
) -> None:
    shutil.copy(ARCHIVE, tmp_path / "any-name.mar")
    container, _ = start_and_wait(
        start,
        *mount_options(tmp_path),
        AIP_STORAGE_URI="/mnt/model",
        INVOKE_ROUTE_PREFIX="/*",
        AIP_PREDICT_ROUTE="",
    )
    endpoint = container.endpoint(9000, "/any/path/at:all")
    for case in cases.CASES[:5]:
        answer = endpoint.post(case.body)
        cases.check_response(case, answer.code, answer.body)
    assert endpoint.send("POST", "/", cases.CASES[0].body).code == 404
    assert endpoint.send("GET", "/models").code == 405
    posted = endpoint.send("POST", "/models?url=http://x/y.mar")
    assert (posted.code, "not JSON" in posted.body) == (400, True)
