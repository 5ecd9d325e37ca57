"""The suite passes a whole server, and names the clauses that a broken one breaks."""

import json
import shutil
import sys
import sysconfig
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from contract.docker import Docker
from tests.container.conftest import DOCKER
from tests.images import held_out
from tests.programs import run_program
from tests.stock import archive as stock

DOCKERFILE = """
ARG BASE
FROM ${BASE}
COPY broken.py /broken.py
ENV AIP_HTTP_PORT=1
ENTRYPOINT ["/opt/venv/bin/python", "/broken.py"]
"""
in_docker = pytest.mark.xdist_group("contract")
Build = Callable[[Path], str]


@pytest.fixture(scope="module")
def build(image: str) -> Iterator[Build]:
    """Return a function that builds a folder on the base of the image, and returns the new one's ID."""
    docker, built = Docker(DOCKER), list[str]()

    def _build(folder: Path) -> str:
        base = f"--build-arg=BASE={image}"
        built.append(docker("build", "--quiet", base, str(folder), timeout_s=300))
        return built[-1]

    yield _build
    for each in built:
        docker("image", "rm", "--force", each)


def python(*words: str) -> tuple[int, str]:
    """Run a program as a user does; return its exit code and what it printed."""
    done = run_program([sys.executable, "-m", *words], timeout_s=300)
    return done.code, done.out + done.err


def check_contract(
    image: str, file: Path, instances: Sequence[object], *options: str
) -> tuple[int, str]:
    """Run the suite against an image; return its exit code and what it printed."""
    file.write_text(json.dumps({"instances": instances}))
    return python("contract", image, "--docker", DOCKER, "--instances", str(file), *options)


def clauses(output: str, word: str) -> set[str]:
    """Return the clauses that the table lists with PASS, FAIL or SKIP."""
    return {line[6:] for line in output.splitlines() if line.startswith(f"{word}  ")}


LISTENS = "The server listens on AIP_HTTP_PORT on all addresses within 40 s"
BECOMES_HEALTHY = "AIP_HEALTH_ROUTE returns 200 once the model is loaded"
SETS_NO_VARIABLE = "The image sets no AIP_* variable itself"
BREAKS = {
    "fixed port": LISTENS,
    "listens to itself": LISTENS,
    "ends at once": LISTENS,
    "fixed routes": BECOMES_HEALTHY,
    "never healthy": BECOMES_HEALTHY,
    "default routes ignored": "The default routes of Vertex AI are served",
    "healthy before it predicts": "AIP_HEALTH_ROUTE returns 200 only once predictions are answered",
    "reads data[0]": "There is one prediction for each instance (3)",
    "out of order": "Predictions come in the order of the instances",
    "a bare array": "AIP_PREDICT_ROUTE answers instances with predictions",
    "JSON called HTML": "The response is JSON, and its Content-Type is application/json",
    "small requests only": "A request of 1.5 MB is answered",
    "503 for a client's fault": "An invalid request gets a 4xx status (the body is not JSON)",
    "exits": "The entrypoint keeps running while the server is healthy",
}
NEEDS_HEALTH = {"fixed port", "listens to itself", "ends at once", "fixed routes", "never healthy"}


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is an address on Linux alone")
@pytest.mark.parametrize("kind", ["whole", *BREAKS])
def test_broken_process_fails_the_clause_that_it_breaks(tmp_path: Path, kind: str) -> None:
    (tmp_path / "i").write_text("[3, 1, 2]")
    # A server that is never ready is waited for in vain, and any other as long as it takes.
    limit_s = 1 if kind in NEEDS_HEALTH else 5 if kind == "default routes ignored" else 30
    code, output = python("tests.contract.local", kind, str(tmp_path / "i"), str(limit_s))
    assert clauses(output, "SKIP") == {SETS_NO_VARIABLE}, output
    if kind == "whole":
        assert code == 0, output
        assert not clauses(output, "FAIL")
        return
    assert code == 1, output
    assert BREAKS[kind] in clauses(output, "FAIL"), output
    if kind not in NEEDS_HEALTH | {"a bare array", "exits", "healthy before it predicts"}:
        beside = "An invalid request does not affect others at the same time"
        assert beside in clauses(output, "PASS"), output


@in_docker
def test_broken_image_fails_the_clause_that_it_breaks(build: Build, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    shutil.copy(Path(__file__).with_name("broken.py"), tmp_path)
    code, output = check_contract(build(tmp_path), tmp_path / "i", [3, 1, 2], "--ready-s", "30")
    assert code == 1, output
    assert clauses(output, "FAIL") == {SETS_NO_VARIABLE}


@in_docker
def test_our_image_passes_every_clause_with_the_least_of_rights(image: str, tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    pictures = [{"b64": base64} for base64, _ in held_out(5)]
    options = ("--rights", "least", "--junit", str(junit))
    code, output = check_contract(image, tmp_path / "i", pictures, *options)
    assert code == 0, output
    suite = ET.parse(junit).getroot()[0]  # noqa: S314  we wrote it
    assert int(suite.attrib["tests"]) == len(clauses(output, "PASS")) > 20
    assert suite.attrib["failures"] == suite.attrib["errors"] == suite.attrib["skipped"] == "0"


# An image as Google's samples are: TorchServe, its JSON envelope, a port of its own.
SAMPLE = """
ARG BASE
FROM ${BASE}
COPY model.mar config.properties /sample/
COPY model-server.jar /opt/venv/lib/python3.11/site-packages/ts/frontend/
ENV LOG_LOCATION=/tmp METRICS_LOCATION=/tmp PATH=/opt/venv/bin:/usr/bin:/bin PYTHONPATH=
ENTRYPOINT ["/bin/sh", "-c", "torchserve --start --ncs --model-store /sample \\
  --models model=model.mar --ts-config /sample/config.properties; tail -f /dev/null"]
"""
SAMPLE_SETTINGS = """
inference_address=http://0.0.0.0:7080
management_address=http://127.0.0.1:7081
service_envelope=json
disable_token_authorization=true
"""


@in_docker
@pytest.mark.full
def test_image_in_the_style_of_google_s_samples_fails_the_clauses_that_it_breaks(
    build: Build, tmp_path: Path
) -> None:
    stock.pack(tmp_path).chmod(0o644)
    (tmp_path / "Dockerfile").write_text(SAMPLE)
    # The whole of it: our image has only what it serves with.
    jar = Path(sysconfig.get_path("purelib"), "ts", "frontend", "model-server.jar")
    Path(shutil.copy(jar, tmp_path)).chmod(0o644)
    (tmp_path / "config.properties").write_text(SAMPLE_SETTINGS)
    pictures = [{"b64": base64} for base64, _ in held_out(5)]
    options = ["--port=7080", "--health-route=/ping", "--predict-route=/predictions/model"]
    code, output = check_contract(build(tmp_path), tmp_path / "i", pictures, *options)
    assert code == 1, output
    invalid = (
        "the body is not JSON",
        "no instances",
        "instances is not an array",
        "an empty array",
    )
    assert clauses(output, "FAIL") == {
        "The response is JSON, and its Content-Type is application/json",
        *(f"An invalid request gets a 4xx status ({each})" for each in invalid),
    }, output
