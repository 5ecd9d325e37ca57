"""Several archives in one container, on both request paths: from storage, and baked in.

The toy is an archive of this project, `mnist` a stock one that gets JSON, and `commanded` a stock one that does what
it is told.
"""

import json
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from project.model_folder import Model
from serving import archive as packing
from tests import cases
from tests.container.conftest import HARDENED, VERTEX, Container, Start, container_starter
from tests.container.test_direct import CONFIG, HANDLER
from tests.container.test_storage import mount_options
from tests.http import Endpoint, Response, wait_for
from tests.images import ARCHIVE, request_body
from tests.stock import archive as stock

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("several")]
NAMES = ("commanded", "mnist", "toy")
HEALTH, PREDICT = VERTEX["AIP_HEALTH_ROUTE"], VERTEX["AIP_PREDICT_ROUTE"]
COMMAND = {"body": "pid"}
INSTANCES = {"commanded": COMMAND, "mnist": [0.5] * 784, "toy": cases.INSTANCE}
INVALID = {"mnist": {"b64": "abcde"}, "toy": {"b64": "abcde"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the three archives."""
    folder, scratch = tmp_path_factory.mktemp("several"), tmp_path_factory.mktemp("scratch")
    (scratch / "model-config.yaml").write_text(CONFIG)
    stock.pack(scratch, HANDLER, f"--config-file={scratch / 'model-config.yaml'}")
    shutil.move(scratch / "model.mar", folder / "commanded.mar")
    shutil.move(stock.pack(scratch), folder / "mnist.mar")
    shutil.copy(ARCHIVE, folder / "toy.mar")
    return folder


@pytest.fixture(scope="module")
def containers(
    image: str, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Container]]:
    """Start a container on each path; the archives of the second are baked in, and its default is the toy."""
    output = tmp_path_factory.mktemp("build")
    model = Model(path=folder, name="baked", output=output)
    packing.build(model)
    store = output / "store"
    store.mkdir()
    for archive in model.archives:
        shutil.copy(archive, store)
    variables = {
        "direct": {"AIP_STORAGE_URI": "/mnt/model", "METRICS_PORT": "9090"},
        "torchserve": {
            "MODEL_STORE": "/mnt/model",
            "REQUEST_PATH": "torchserve",
            "DEFAULT_MODEL": "toy",
            "INVOKE_ROUTE_PREFIX": "/*",
        },
    }
    with container_starter(image) as start:
        started = {
            path: start(*HARDENED, *mount_options(source), **VERTEX | variables[path])
            for path, source in (("direct", folder), ("torchserve", store))
        }
        for container in started.values():
            wait_for(lambda: is_healthy(container), 120, "all models")  # noqa: B023
            # As soon as health is 200, each model answers.
            assert [tell(container, name).code for name in NAMES] == [200] * 3
        yield started


@pytest.fixture(params=["direct", "torchserve"])
def container(containers: dict[str, Container], request: pytest.FixtureRequest) -> Container:
    """Return the container of each path in turn."""
    return containers[request.param]


def is_healthy(container: Container) -> bool:
    try:
        return container.endpoint(9000, "/").send("GET", HEALTH).code == 200
    except OSError:
        return False


def get_route(container: Container, name: str) -> Endpoint:
    return container.endpoint(9000, f"/predictions/{name}")


def tell(container: Container, name: str, instance: object = None) -> Response:
    """Send an instance to a model's own route."""
    return get_route(container, name).post(request_body(instance or INSTANCES[name]))


def choose(
    container: Container, name: object, *instances: object, **parameters: object
) -> Response:
    """Send instances to the predict route, with parameters.model."""
    body = request_body(*instances, model=name, **parameters)
    return container.endpoint(9000, PREDICT).post(body)


def read_error(response: Response) -> str:
    return str(json.loads(response.body)["error"]["message"])


def test_predict_route_and_the_models_route_give_the_same_response(container: Container) -> None:
    for name in NAMES:
        assert tell(container, name).code == 200
        for instance in (INSTANCES[name], INVALID.get(name, COMMAND)):
            chosen, own = choose(container, name, instance), tell(container, name, instance)
            assert (chosen.code, chosen.body) == (own.code, own.body)
            assert chosen.headers["content-type"] == own.headers["content-type"]


def test_models_give_the_responses_that_they_give_alone(
    container: Container, endpoint: Endpoint
) -> None:
    """The toy rejects a parameter that it does not know, and gets all but parameters.model."""
    for case in cases.CASES:
        alone, here = (
            each.post(case.body, case.headers) for each in (endpoint, get_route(container, "toy"))
        )
        assert (here.code, here.body) == (alone.code, alone.body), case.name
    good, bad = cases.INSTANCE, {"b64": "abcde"}
    for parameters in ({"on_error": "return"}, {"unknown": 1}, {"stream": True}):
        alone = endpoint.post(request_body(good, bad, **parameters))
        chosen = choose(container, "toy", good, bad, **parameters)
        assert (chosen.code, chosen.body) == (alone.code, alone.body), parameters


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("other", "parameters.model: no model other; expected one of commanded, mnist, toy"),
        ('a"b', "parameters.model: no model this name; expected one of commanded, mnist, toy"),
        (3, "parameters.model is not a string; expected one of commanded, mnist, toy"),
    ],
)
def test_unknown_model_is_a_400_that_lists_the_models(
    container: Container, name: object, reason: str
) -> None:
    response = choose(container, name, 1)
    assert (response.code, read_error(response)) == (400, reason)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]


def test_request_that_chooses_no_model_gets_the_default_one_or_a_400(
    containers: dict[str, Container],
) -> None:
    body = request_body(cases.INSTANCE)
    response = containers["direct"].endpoint(9000, PREDICT).post(body)
    expected = "parameters.model: missing; expected one of commanded, mnist, toy"
    assert (response.code, read_error(response)) == (400, expected)
    baked = containers["torchserve"]
    assert baked.endpoint(9000, "/any/path").post(body).body == tell(baked, "toy").body


def test_other_paths_and_methods_are_rejected_with_the_names(container: Container) -> None:
    for method, path, code in (
        ("POST", "/predictions/none", 404),
        ("GET", "/predictions/toy", 405),
    ):
        response = container.endpoint(9000, "/").send(method, path)
        assert response.code == code
        assert "/predictions/NAME (models: commanded, mnist, toy)" in read_error(response)


def test_large_and_chunked_bodies_choose_their_model(container: Container) -> None:
    instance = "x" * 3_000_000
    body = request_body({"body": f"size {instance}"}, model="commanded")
    endpoint = container.endpoint(9000, PREDICT)
    for sent in (body, iter([body[:10], body[10:]])):
        response = endpoint.send("POST", PREDICT, sent, {"Content-Type": "application/json"})
        assert (response.code, json.loads(response.body)) == (200, {"predictions": ["3000000"]})


def test_concurrent_requests_get_the_response_of_their_model(container: Container) -> None:
    expected = {name: tell(container, name).body for name in NAMES}

    def send(number: int) -> tuple[str, Response]:
        name = NAMES[number % 3]
        if number % 2:
            return name, choose(container, name, INSTANCES[name])
        return name, tell(container, name)

    with ThreadPoolExecutor(16) as pool:
        for name, response in pool.map(send, range(300)):
            assert (response.code, response.body) == (200, expected[name])


def test_worker_that_ends_takes_only_its_own_batch(container: Container) -> None:
    before = json.loads(tell(container, "commanded").body)
    with ThreadPoolExecutor(4) as pool:
        deadline = time.monotonic() + 4
        toys = [pool.submit(send_until, container, deadline) for _ in range(3)]
        time.sleep(0.5)
        assert tell(container, "commanded", {"body": "exit"}).code == 503
        assert all(code == 200 for toy in toys for code in toy.result(60))
    wait_for(lambda: tell(container, "commanded").code == 200, 60, "another worker")
    assert json.loads(tell(container, "commanded").body) != before


def send_until(container: Container, deadline: float) -> list[int]:
    codes = []
    while time.monotonic() < deadline:
        codes.append(tell(container, "toy").code)
    return codes


def test_model_whose_torchserve_ends_is_started_again_and_health_waits_for_it(
    container: Container,
) -> None:
    container.kill("commanded/config.properties")
    wait_for(lambda: not is_healthy(container), 10, "health 503")
    assert tell(container, "commanded").code == 503
    assert [tell(container, name).code for name in ("mnist", "toy")] == [200, 200]
    wait_for(lambda: is_healthy(container), 90, "the model")
    assert tell(container, "commanded").code == 200
    log = container.logs()
    assert "model commanded: TorchServe was killed by SIGKILL; it is started again" in log


def test_log_states_how_the_machine_is_shared_and_names_the_model_of_a_line(
    container: Container,
) -> None:
    lines = container.log_lines()
    messages = [line["message"] for line in lines]
    start = r"Starting TorchServe: model commanded: 1 workers .*, batches of up to 8 .*, 3 models share \d+ cores\)"
    assert any(re.match(start, message) for message in messages)
    for name in NAMES:
        assert any(m.startswith(f"model {name}: ready after") for m in messages)
    labels = [line["logging.googleapis.com/labels"] for line in lines]
    assert {label["model"] for label in labels if label["process"] == "worker"} <= set(NAMES)


def test_metrics_name_all_models(containers: dict[str, Container]) -> None:
    text = containers["direct"].endpoint(9090, "/").send("GET", "/metrics").body
    assert 'model="commanded,mnist,toy",' in text
    assert "serving_ready 1.0" in text


BROKEN = """
class Handler:
    def initialize(self, context):
        raise RuntimeError("no weights")

    def handle(self, data, context):
        return data
"""


def test_model_that_cannot_be_loaded_ends_the_container_with_its_name(
    start: Start, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken_handler.py").write_text(BROKEN)
    source = tmp_path / "source"
    source.mkdir()
    shutil.move(stock.pack(tmp_path, tmp_path / "broken_handler.py"), source / "broken.mar")
    shutil.copy(folder / "toy.mar", source)
    options = (*HARDENED, *mount_options(source))
    variables = VERTEX | {"AIP_STORAGE_URI": "/mnt/model"}
    container = start(*options, **variables)
    small = start(*options, "--memory=512m", **variables)
    assert container.wait_until_ended(60) == 1
    assert (
        "cannot serve: model broken: the model cannot be loaded: RuntimeError: no weights"
        in container.last_message()
    )
    assert small.wait_until_ended(60) == 1
    assert "2 models with a worker each need at least" in small.last_message()
