"""Each folder in model/: `make check`, `make serve`, `make function`, and the image with its contract."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from authoring.huggingface import TEMPLATES
from contract.docker import Docker
from handler.comparison import find_differences
from project.model_folder import find_model, list_models
from serving.torchserve import find_free_port
from tests.http import Endpoint, wait_for
from tests.images import ROOT
from tests.programs import run_program

EXAMPLES = [
    "digits",
    "tabular",
    "text",
    "embedding",
    "detector",
    "generator",
    "torchscript",
    "huggingface",
]
"""The models that come with the repository. Its users delete some of them, and add their own."""
HEAVY = {"embedding", "huggingface", "detector"}
"""Packages or weights of these take half a minute to install or fetch."""
DOCKER = os.environ.get("DOCKER", "docker")
MAX_LINES = 75
START_TIMEOUT_S = 240


def parametrize(*, all_full: bool = False) -> pytest.MarkDecorator:
    """Run a test for each model, those of one model in one worker; the heavy ones only in `make test-all`."""
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(
                name,
                marks=[
                    pytest.mark.xdist_group(f"example {name}"),
                    *([pytest.mark.full] if all_full or name in HEAVY else []),
                ],
            )
            for name in list_models(ROOT)
        ],
    )


@contextlib.contextmanager
def running(target: str, name: str, path: str) -> Iterator[Endpoint]:
    """Run `make TARGET` for a model until its port is open, and yield the URL of `path`; then send Ctrl-C."""
    port = find_free_port()
    command = ["make", target, f"MODEL={name}", f"PORT={port}"]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command, cwd=ROOT, start_new_session=True, stdout=log, stderr=subprocess.STDOUT
        ) as make,
    ):
        endpoint = Endpoint(f"http://127.0.0.1:{port}{path}")

        def is_ready() -> bool:
            log.seek(0)
            assert make.poll() is None, log.read()
            with contextlib.suppress(OSError):
                return endpoint.post(b"").code == 400
            return False

        try:
            wait_for(is_ready, START_TIMEOUT_S, f"make {target} MODEL={name}")
            yield endpoint
        finally:
            # A terminal sends SIGINT to the whole process group in its foreground.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(make.pid, signal.SIGINT)
            make.wait(timeout=60)


def read_requests(name: str) -> list[dict[str, Any]]:
    requests = json.loads((ROOT / "model" / name / "requests.json").read_text())
    assert len(requests) >= 2
    return list(requests)


def assert_predictions(endpoint: Endpoint, name: str) -> None:
    """Send each request of a model; compare the predictions."""
    for request in read_requests(name):
        parameters = {"parameters": request["parameters"]} if "parameters" in request else {}
        body = {"instances": [request["instance"]], **parameters}
        response = endpoint.post(json.dumps(body).encode())
        assert response.code == 200, response.body
        [prediction] = json.loads(response.body)["predictions"]
        if "expected" in request:
            assert not find_differences(prediction, request["expected"])


@pytest.mark.parametrize("name", sorted({*EXAMPLES} & {*list_models(ROOT)}))
def test_example_is_short_formatted_and_has_expected_predictions(name: str) -> None:
    folder = ROOT / "model" / name
    assert len((folder / "model.py").read_text().splitlines()) <= MAX_LINES
    assert all("expected" in request for request in read_requests(name))
    # make lint reports only errors in a model, which is its author's code.
    rules = "lint.per-file-ignores={'tests/**' = ['D', 'ANN']}"
    for command in (
        ["check", "--config", rules, "--select", "E,F,I,W"],
        ["format", "--check", "--config", "format.exclude=[]"],
    ):
        done = run_program([f"{ROOT}/.venv/bin/ruff", *command, str(folder)])
        assert done.code == 0, done.out + done.err


@parametrize()
def test_model_passes_make_check(name: str) -> None:
    done = run_program(["make", "check", f"MODEL={name}"], timeout_s=600)
    assert done.code == 0, done.out + done.err
    assert "FAIL" not in done.out


@parametrize(all_full=True)
def test_model_is_served(name: str) -> None:
    with running("serve", name, find_model(name, ROOT).predict_route) as endpoint:
        assert_predictions(endpoint, name)


@parametrize(all_full=True)
def test_model_is_a_function(name: str) -> None:
    with running("function", name, "/") as endpoint:
        assert_predictions(endpoint, name)


@parametrize(all_full=True)
def test_image_of_the_model_keeps_the_contract(name: str) -> None:
    docker = Docker(DOCKER)
    if not docker.is_available():
        pytest.skip(f"needs a Docker engine; {DOCKER!r} does not reach one")
    image = f"vertex-torchserve:example-{name}-{uuid.uuid4().hex[:8]}"
    make = ["make", f"MODEL={name}", f"IMAGE={image}", f"DOCKER={DOCKER}"]
    try:
        for target in ("build", "contract"):
            done = run_program([*make, target], timeout_s=1800)
            assert done.code == 0, done.out[-3000:] + done.err[-3000:]
    finally:
        with contextlib.suppress(Exception):
            docker("image", "rm", image)


@pytest.mark.parametrize(
    ("name", "template"), [("embedding", "embedding"), ("huggingface", "token_classification")]
)
def test_example_is_what_make_new_writes_for_a_hugging_face_folder(
    name: str, template: str
) -> None:
    if name not in list_models(ROOT):
        return  # deleted by the user
    example = (ROOT / "model" / name / "model.py").read_text()
    assert example == (TEMPLATES / f"{template}.py").read_text()
