"""AIP_STORAGE_URI: what lies in a bucket or a mounted folder is what the container serves."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rehearsal import containers
from rehearsal.world import Rules
from tests import bucket, wire
from tests.container.conftest import DOCKER, HARDENED, VERTEX, Container, Start, wait_until_healthy
from tests.http import JSON_TYPE, Endpoint, wait_for
from tests.pictures import ARCHIVE, ROOT, request
from tests.stock import archive as stock
from tests.torchserve.test_stock import BETTER, SAME

WEIGHTS = ("weights.safetensors", "model.json", "golden.json")
HEALTH, PREDICT = VERTEX["AIP_HEALTH_ROUTE"], VERTEX["AIP_PREDICT_ROUTE"]


@pytest.fixture(scope="module")
def emulator(image: str) -> Iterator[str]:  # noqa: ARG001  it needs Docker's bridge
    """Start a Cloud Storage emulator that containers reach; return its URL."""
    with bucket.emulated(containers.bridge(Rules(docker=DOCKER))) as url:
        yield url


Upload = Callable[..., str]


@pytest.fixture
def upload(emulator: str, request: pytest.FixtureRequest) -> Upload:
    """Return a function that puts files into a folder of a new bucket and gives its URI."""

    def _upload(*files: Path) -> str:
        return bucket.filled(emulator, bucket.named(request), "models/v1", *files)

    return _upload


@pytest.fixture(scope="module")
def stock_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stock")
    archive = stock.pack(folder)
    folder.chmod(0o755)
    archive.chmod(0o644)
    return archive


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of our weights whose labels are others than those baked in."""
    folder = tmp_path_factory.mktemp("weights")
    for name in WEIGHTS:
        shutil.copy(ROOT / "build" / "model" / name, folder)
    for name in ("model.json", "golden.json"):
        document = json.loads((folder / name).read_text())
        (folder / name).write_text(re.sub(r'"(\d)"', r'"digit \1"', json.dumps(document)))
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.chmod(0o644)
    return folder


def started(start: Start, *options: str, **environ: str) -> tuple[Container, Endpoint]:
    container = start(*HARDENED, *options, **VERTEX | environ)
    wait_until_healthy(container.endpoint(9000, "/"), HEALTH)
    return container, container.endpoint(9000, PREDICT)


def test_our_weights_in_a_bucket_take_the_place_of_those_baked_in(
    start: Start, emulator: str, upload: Upload, other_weights: Path
) -> None:
    uri = upload(*other_weights.iterdir())
    container, endpoint = started(start, AIP_STORAGE_URI=uri, STORAGE_EMULATOR_HOST=emulator)
    answer = endpoint.post(request(wire.INSTANCE))
    assert answer.code == 200, answer
    assert json.loads(answer.body)["predictions"][0]["label"].startswith("digit ")
    log = container.logs()
    assert f"fetched {uri}/weights.safetensors: " in log
    assert "checksum right" in log


def test_our_weights_in_a_mounted_folder_do_too(start: Start, other_weights: Path) -> None:
    mounted = ("--volume", f"{other_weights}:/mnt/weights:ro")
    _, endpoint = started(start, *mounted, AIP_STORAGE_URI="/mnt/weights")
    answer = endpoint.post(request(wire.INSTANCE))
    assert json.loads(answer.body)["predictions"][0]["label"].startswith("digit ")


def test_a_stock_archive_in_a_bucket_is_served(
    start: Start, emulator: str, upload: Upload, stock_archive: Path
) -> None:
    uri = upload(stock_archive)
    container, endpoint = started(start, AIP_STORAGE_URI=uri, STORAGE_EMULATOR_HOST=emulator)
    keeps_its_promises(endpoint)
    assert "a stock archive; health follows its workers" in container.logs()


def test_a_stock_archive_in_a_mounted_folder_is_served_on_google_s_own_routes(
    start: Start, stock_archive: Path
) -> None:
    container = start(
        *HARDENED, "--volume", f"{stock_archive.parent}:/mnt/model:ro", AIP_STORAGE_URI="/mnt/model"
    )
    endpoint = container.endpoint(8080, "/predictions/model")
    wait_until_healthy(endpoint, "/ping")
    keeps_its_promises(endpoint)


def serving(start: Start, folder: Path, name: str, handler: str) -> tuple[Container, Endpoint]:
    """Start a container that serves a stock archive with this handler."""
    (folder / name).write_text(handler)
    store = folder / "model"
    store.mkdir(mode=0o755)
    stock.pack(store, folder / name).chmod(0o644)
    return started(start, "--volume", f"{store}:/mnt/model:ro", AIP_STORAGE_URI="/mnt/model")


RAISING = """
class Raising:
    def initialize(self, context):
        self.initialized = True

    def handle(self, data, context):
        raise ValueError("a fault of its own")
"""


def test_a_fault_s_line_has_the_request_s_id_its_trace_and_the_whole_traceback(
    start: Start, tmp_path: Path
) -> None:
    container, endpoint = serving(start, tmp_path, "raising.py", RAISING)
    trace = {"traceparent": f"00-{'5f' * 16}-00f067aa0ba902b7-01"}
    answer = endpoint.post(request(wire.INSTANCE), JSON_TYPE | trace)
    assert answer.code == 500, answer
    wait_for(lambda: "fault of its own" in container.logs(), 10, "the worker's line")
    (line,) = [line for line in container.said() if "a fault of its own" in line["message"]]
    assert line["severity"] == "ERROR"
    assert line["requests"] == [answer.headers["x-request-id"]]
    assert line["logging.googleapis.com/trace"] == f"projects/1/traces/{'5f' * 16}"
    assert re.search(
        r'Traceback.*raising\.py", line \d+.*ValueError: a fault', line["message"], re.S
    )
    assert line["logging.googleapis.com/labels"]["process"] == "worker"


PRINTING = """
class Printing:
    def initialize(self, context):
        self.initialized = True

    def handle(self, data, context):
        print(data[0]["print"])
        return ["ok"]
"""


def test_whatever_a_handler_prints_the_log_goes_on(start: Start, tmp_path: Path) -> None:
    container, endpoint = serving(start, tmp_path, "printing.py", PRINTING)
    strange = [
        '{"a":' * 3000,
        '{"severity":"INFO","message":"m","requests":3}',
        "\x00\ud800",
        "last",
    ]
    for printed in strange:
        endpoint.post(json.dumps({"instances": [{"print": printed}]}).encode())
    wait_for(lambda: '"last"' in container.logs(), 10, "the last line")
    container.said()


def keeps_its_promises(endpoint: Endpoint) -> None:
    """See that requests are answered as test_stock.py compares them with stock TorchServe's."""
    for name, body in SAME.items():
        answer = endpoint.post(body)
        assert answer.code == 200, (name, answer)
        predictions = json.loads(answer.body)["predictions"]
        assert len(predictions) == len(json.loads(body)["instances"])
        assert all(sum(one["scores"]) == pytest.approx(1, abs=0.01) for one in predictions)
    for name, (body, code, reason) in BETTER.items():
        answer = endpoint.post(body)
        assert (answer.code, reason in answer.body) == (code, True), (name, answer)


def test_an_archive_of_ours_is_served_from_storage(start: Start, tmp_path: Path) -> None:
    shutil.copy(ARCHIVE, tmp_path / "any-name.mar")
    tmp_path.chmod(0o755)
    _, endpoint = started(
        start, "--volume", f"{tmp_path}:/mnt/model:ro", AIP_STORAGE_URI="/mnt/model"
    )
    for case in wire.CASES[:5]:
        answer = endpoint.post(case.body)
        wire.check(case, answer.code, answer.body)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("gs://no-such-bucket/x", "gs://no-such-bucket/x: .*does the bucket exist"),
        ("/mnt/nothing", "/mnt/nothing: no such folder; is it mounted"),
        ("s3://bucket/x", "s3://bucket/x: expected gs://BUCKET/FOLDER"),
        ("/etc/nginx", "neither a .mar nor this model's weights: .* missing among"),
    ],
)
def test_what_cannot_be_fetched_ends_the_container_with_the_reason(
    start: Start, emulator: str, uri: str, reason: str
) -> None:
    container = start(**VERTEX | {"AIP_STORAGE_URI": uri, "STORAGE_EMULATOR_HOST": emulator})
    assert container.wait_until_ended(60) == 1
    assert re.search(f"^cannot serve: .*{reason}", container.last_word())


def test_a_folder_that_only_root_may_read_is_named_with_what_to_do(
    start: Start, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    container = start("--volume", f"{tmp_path}:/mnt/w:ro", **VERTEX | {"AIP_STORAGE_URI": "/mnt/w"})
    assert container.wait_until_ended(60) == 1
    said = "cannot serve: /mnt/w: user 10001, who serves, may not read it: chmod -R a+rX"
    assert container.last_word() == said


def test_weights_that_do_not_answer_their_golden_instance_are_refused(
    start: Start, other_weights: Path, tmp_path: Path
) -> None:
    for file in other_weights.iterdir():
        shutil.copy(file, tmp_path)
    shutil.copy(ROOT / "build" / "model" / "golden.json", tmp_path)  # which expects other labels
    tmp_path.chmod(0o755)
    container = start("--volume", f"{tmp_path}:/mnt/w:ro", **VERTEX | {"AIP_STORAGE_URI": "/mnt/w"})
    assert container.wait_until_ended(60) == 1
    last = container.last_word()
    assert "cannot serve: the model does not answer its golden instance: " in last


def test_a_damaged_archive_is_refused(start: Start, stock_archive: Path, tmp_path: Path) -> None:
    content = bytearray(stock_archive.read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "model.mar").write_bytes(content)
    tmp_path.chmod(0o755)
    container = start("--volume", f"{tmp_path}:/mnt/w:ro", **VERTEX | {"AIP_STORAGE_URI": "/mnt/w"})
    assert container.wait_until_ended(60) == 1
    assert "model.mar is damaged: " in container.last_word()


def test_with_an_invoke_route_prefix_any_path_predicts_and_nothing_else_opens(start: Start) -> None:
    container = start(**VERTEX | {"INVOKE_ROUTE_PREFIX": "/*", "AIP_PREDICT_ROUTE": ""})
    endpoint = container.endpoint(9000, "/any/path/at:all")
    wait_until_healthy(endpoint, HEALTH)
    assert endpoint.post(wire.CASES[0].body).code == 200
    assert endpoint.send("POST", "/", wire.CASES[0].body).code == 404
    assert endpoint.send("GET", "/models").code == 405
    posted = endpoint.send("POST", "/models?url=http://x/y.mar")
    assert (posted.code, "not JSON" in posted.body) == (400, True)
