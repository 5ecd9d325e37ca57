"""The contract checks pass for a valid server, and report the requirement that a faulty one violates."""

import json
import re
import shutil
import sys
import sysconfig
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from contract.docker import Docker
from contract.vertex import Example, read_examples
from tests.container.conftest import DOCKER
from tests.images import labelled_images
from tests.programs import run_program
from tests.stock import archive as stock

DOCKERFILE = """
ARG BASE
FROM ${BASE}
COPY faulty_server.py /faulty_server.py
ENV AIP_HTTP_PORT=1
ENTRYPOINT ["/opt/venv/bin/python", "/faulty_server.py"]
"""
in_docker = pytest.mark.xdist_group("contract")
Build = Callable[[Path], str]


@pytest.fixture(scope="module")
def build(image: str) -> Iterator[Build]:
    """Return a function that builds a folder's Dockerfile on the image, and returns the new image's ID."""
    docker, image_ids = Docker(DOCKER), list[str]()

    def _build(folder: Path) -> str:
        base = f"--build-arg=BASE={image}"
        image_ids.append(docker("build", "--quiet", base, str(folder), timeout_s=300))
        return image_ids[-1]

    yield _build
    for image_id in image_ids:
        docker("image", "rm", "--force", image_id)


def run_module(*arguments: str) -> tuple[int, str]:
    """Run a module as a program; return its exit code and its output."""
    result = run_program([sys.executable, "-m", *arguments], timeout_s=300)
    return result.code, result.out + result.err


def check_contract(
    image: str, file: Path, instances: Sequence[object], *options: str
) -> tuple[int, str]:
    """Check an image; return the exit code and the output."""
    file.write_text(json.dumps({"instances": instances}))
    return run_module("contract", image, "--docker", DOCKER, "--instances", str(file), *options)


def requirements(output: str, outcome: str) -> set[str]:
    """Return the requirements that the output lists with an outcome: PASS, FAIL or SKIP."""
    return {line[6:] for line in output.splitlines() if line.startswith(f"{outcome}  ")}


LISTENS = "The server listens on AIP_HTTP_PORT, on all interfaces, within 40 s"
BECOMES_HEALTHY = "AIP_HEALTH_ROUTE returns 200 once the model is loaded"
SETS_NO_VARIABLE = "The image sets no AIP_* variable"
VIOLATED = {
    "fixed port": LISTENS,
    "listens on loopback only": LISTENS,
    "exits at start": LISTENS,
    "fixed routes": BECOMES_HEALTHY,
    "never healthy": BECOMES_HEALTHY,
    "default routes ignored": "The server serves the default routes of Vertex AI",
    "healthy before it predicts": "AIP_HEALTH_ROUTE returns 200 only when predictions succeed",
    "reads data[0]": "The response has one prediction for each instance (3 instances)",
    "out of order": "Predictions are in the order of the instances",
    "a bare array": "AIP_PREDICT_ROUTE returns predictions for instances",
    "JSON sent as HTML": "The response is JSON, and its Content-Type is application/json",
    "small requests only": "The server accepts a request of 1.5 MB",
    "503 for an invalid request": "An invalid request gets a 4xx status (the body is not JSON)",
    "exits after a prediction": "The entrypoint keeps running while the server is healthy",
}
NEVER_HEALTHY = {
    "fixed port",
    "listens on loopback only",
    "exits at start",
    "fixed routes",
    "never healthy",
}


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is an address on Linux alone")
@pytest.mark.parametrize("kind", ["valid", "last digits differ", *VIOLATED])
def test_faulty_process_fails_the_check_of_the_requirement_that_it_violates(
    tmp_path: Path, kind: str
) -> None:
    (tmp_path / "i").write_text("[3, 1, 2]")
    # The checks wait the whole time for a server that never becomes healthy.
    timeout_s = 1 if kind in NEVER_HEALTHY else 5 if kind == "default routes ignored" else 30
    code, output = run_module("tests.contract.local_run", kind, str(tmp_path / "i"), str(timeout_s))
    assert requirements(output, "SKIP") == {SETS_NO_VARIABLE}, output
    if kind not in VIOLATED:
        assert code == 0, output
        assert not requirements(output, "FAIL")
        return
    assert code == 1, output
    assert VIOLATED[kind] in requirements(output, "FAIL"), output
    if kind == "exits at start":
        logged = re.findall(r"it exited; its last log lines:\n      (.*)", output)
        assert set(logged) == {"Error: no model found"}
    if kind not in NEVER_HEALTHY | {
        "a bare array",
        "exits after a prediction",
        "healthy before it predicts",
    }:
        isolated = "An invalid request does not affect concurrent requests"
        assert isolated in requirements(output, "PASS"), output


def test_parameters_of_requests_json_are_sent_with_their_instances(tmp_path: Path) -> None:
    examples = [(3, 5, 15), (1, 5, 5), (2, 7, 14)]
    rows = [{"instance": i, "parameters": {"factor": f}, "expected": e} for i, f, e in examples]
    (tmp_path / "requests.json").write_text(json.dumps(rows))
    server = ("tests.contract.local_run", "factor required")
    code, output = run_module(*server, str(tmp_path / "requests.json"), "30")
    assert code == 0, output
    assert not requirements(output, "FAIL")
    without = {"A request may have empty parameters"}
    assert requirements(output, "SKIP") == {SETS_NO_VARIABLE, *without}, output
    (tmp_path / "i").write_text("[3, 1, 2]")
    code, output = run_module(*server, str(tmp_path / "i"), "30")
    assert "AIP_PREDICT_ROUTE returns predictions for instances" in requirements(output, "FAIL")


THREE = [Example(3, {}), Example(1, {}), Example(2, {})]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"instances": [3, 1, 2]}', THREE),
        ("[3, 1, 2]", THREE),
        ("3\n1\n\n2\n", THREE),
        ('{"instances": [3], "parameters": {"k": 1}}', [Example(3, {"k": 1})]),
        (
            '[{"instance": 3, "parameters": {"k": 1}}, {"instance": [], "tolerance": 0.1}]',
            [Example(3, {"k": 1}), Example([], {})],
        ),
        (
            '[{"instance": 3}, {"b64": "x"}]',
            [Example({"instance": 3}, {}), Example({"b64": "x"}, {})],
        ),
    ],
)
def test_file_of_instances_may_have_each_format(
    tmp_path: Path, text: str, expected: list[Example]
) -> None:
    (tmp_path / "i").write_text(text)
    assert read_examples(tmp_path / "i") == expected


def test_help_names_the_formats_of_the_file() -> None:
    _, output = run_module("contract", "--help")
    formats = (
        '[{"instance": ..., "parameters": {...}}, ...] as in requests.json, {"instances": [...]}'
    )
    assert formats in " ".join(output.split())


@in_docker
def test_image_that_sets_aip_variables_fails_that_check_alone(build: Build, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    shutil.copy(Path(__file__).with_name("faulty_server.py"), tmp_path)
    code, output = check_contract(build(tmp_path), tmp_path / "i", [3, 1, 2], "--ready-s", "30")
    assert code == 1, output
    assert requirements(output, "FAIL") == {SETS_NO_VARIABLE}


@in_docker
def test_our_image_passes_every_check_in_the_restricted_sandbox(image: str, tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    pictures = [{"b64": base64} for base64, _ in labelled_images(5)]
    options = ("--sandbox", "restricted", "--junit", str(junit))
    code, output = check_contract(image, tmp_path / "i", pictures, *options)
    assert code == 0, output
    suite = ET.parse(junit).getroot()[0]  # noqa: S314  from our own program
    assert int(suite.attrib["tests"]) == len(requirements(output, "PASS")) > 20
    assert suite.attrib["failures"] == suite.attrib["errors"] == suite.attrib["skipped"] == "0"


def test_old_option_is_deprecated(tmp_path: Path) -> None:
    _, output = check_contract("", tmp_path / "i", [1], "--rights", "least", "--ready-s", "1")
    assert "--rights (make: RIGHTS) is deprecated: use --sandbox restricted (SANDBOX)" in output


@pytest.mark.parametrize(
    ("instances", "docker", "reason"),
    [
        ("no JSON", "docker", "i is not JSON: Expecting value: line 1 column 1 (char 0)"),
        ("{}", "docker", 'i: expected [{"instance": ..., "parameters": {...}}, ...] as in'),
        ('[{"instance": 1, "parameters": 2}]', "docker", "i: parameters: expected an object"),
        (
            "[1]",
            "no-docker",
            "the image none cannot be inspected: no-docker cannot be run: No such",
        ),
    ],
)
def test_wrong_option_is_reported_as_one_line(
    tmp_path: Path, instances: str, docker: str, reason: str
) -> None:
    (tmp_path / "i").write_text(instances)
    options = ("--instances", str(tmp_path / "i"), "--docker", docker)
    code, output = run_module("contract", "none", *options)
    assert code == 1
    assert output.count("\n") == 1
    assert reason in output


# An image like those of Google's samples: TorchServe, its JSON envelope, its own port.
SAMPLE = """
ARG BASE
FROM ${BASE}
COPY model.mar config.properties /sample/
COPY model-server.jar /opt/venv/lib/python3.11/site-packages/ts/frontend/
ENV LOG_LOCATION=/tmp METRICS_LOCATION=/tmp PATH=/opt/venv/bin:/usr/bin:/bin PYTHONPATH=
ENTRYPOINT ["/bin/sh", "-c", "torchserve --start --ncs --model-store /sample \\
  --models model=model.mar --ts-config /sample/config.properties; tail -f /dev/null"]
"""
SAMPLE_CONFIG = """
inference_address=http://0.0.0.0:7080
management_address=http://127.0.0.1:7081
service_envelope=json
disable_token_authorization=true
"""


@in_docker
@pytest.mark.full
def test_image_like_google_s_samples_fails_the_checks_of_the_content_type_and_invalid_requests(
    build: Build, tmp_path: Path
) -> None:
    stock.pack(tmp_path).chmod(0o644)
    (tmp_path / "Dockerfile").write_text(SAMPLE)
    # The complete jar of the package; the image holds a reduced one.
    jar = Path(sysconfig.get_path("purelib"), "ts", "frontend", "model-server.jar")
    Path(shutil.copy(jar, tmp_path)).chmod(0o644)
    (tmp_path / "config.properties").write_text(SAMPLE_CONFIG)
    pictures = [{"b64": base64} for base64, _ in labelled_images(5)]
    options = ["--port=7080", "--health-route=/ping", "--predict-route=/predictions/model"]
    code, output = check_contract(build(tmp_path), tmp_path / "i", pictures, *options)
    assert code == 1, output
    invalid = (
        "the body is not JSON",
        "no instances",
        "instances is not an array",
        "an empty array",
    )
    assert requirements(output, "FAIL") == {
        "The response is JSON, and its Content-Type is application/json",
        *(f"An invalid request gets a 4xx status ({fault})" for fault in invalid),
    }, output
