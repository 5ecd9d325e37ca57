"""The suite passes a whole server, and names the clauses that a broken one breaks."""

import json
import shutil
import subprocess
import sys
import sysconfig
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.container.conftest import DOCKER, docker
from tests.pictures import ROOT, held_out
from tests.stock import archive as stock

HERE = Path(__file__).parent
DOCKERFILE = """
ARG BASE
FROM ${BASE}
COPY broken.py /broken.py
ARG KIND
ARG AIP
ENV KIND=${KIND} ${AIP:-OTHER}=1
ENTRYPOINT ["/bin/sh", "-c", "exec /opt/venv/bin/python /broken.py \\"$KIND\\""]
"""


def broken_image(image: str, kind: str, folder: Path) -> str:
    """Build a server of a kind on the base of an image that has Python."""
    (folder / "Dockerfile").write_text(DOCKERFILE)
    (folder / "broken.py").write_text((HERE / "broken.py").read_text())
    tag = f"contract-test:{kind.replace(' ', '-').replace('[', '').replace(']', '')}".lower()
    tag = tag.replace("'", "")
    aip = "AIP_HTTP_PORT" if kind == "sets AIP variables" else "OTHER"
    docker(
        "build",
        "--tag",
        tag,
        "--build-arg",
        f"BASE={image}",
        "--build-arg",
        f"KIND={kind}",
        "--build-arg",
        f"AIP={aip}",
        str(folder),
        timeout_s=300,
    )
    return tag


def put_to_contract(image: str, instances: Sequence[object], *options: str) -> tuple[int, str]:
    """Run the suite as a user does; return its exit code and what it printed."""
    file = Path(options[options.index("--instances") + 1])
    file.write_text(json.dumps({"instances": instances}))
    done = subprocess.run(
        [sys.executable, "-m", "contract", image, "--docker", DOCKER, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def clauses(said: str, word: str) -> set[str]:
    """Return the clauses that the table lists as kept or BROKEN."""
    return {line[8:] for line in said.splitlines() if line.startswith(f"{word:<6}  ")}


BREAKS = {
    "fixed port": "it listens on AIP_HTTP_PORT on all addresses within 40 s",
    "listens to itself": "it listens on AIP_HTTP_PORT on all addresses within 40 s",
    "ends at once": "it listens on AIP_HTTP_PORT on all addresses within 40 s",
    "fixed routes": "health on AIP_HEALTH_ROUTE becomes 200",
    "never healthy": "health on AIP_HEALTH_ROUTE becomes 200",
    "default routes ignored": "the default routes of vertex are served",
    "sets AIP variables": "the image sets no aip variable itself",
    "healthy before it predicts": "health is 200 only once predictions are answered",
    "reads data[0]": "there is one prediction per instance[3]",
    "out of order": "predictions come in the order of the instances",
    "a bare array": "predict on AIP_PREDICT_ROUTE answers instances with predictions",
    "JSON called HTML": "the answer is json and says so",
    "small requests only": "a request of 1 5 MB passes",
    "503 for a client's fault": "a fault of the client s is a 4xx[a body that is no JSON]",
    "exits": "its entrypoint never exits while it is healthy",
}
NEEDS_HEALTH = {"fixed port", "listens to itself", "ends at once", "fixed routes", "never healthy"}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_broken_server_breaks_its_clause_and_is_told_so(
    image: str, tmp_path: Path, kind: str
) -> None:
    tag = broken_image(image, kind, tmp_path)
    code, said = put_to_contract(
        tag, [3, 1, 2], "--instances", str(tmp_path / "i"), "--ready-s", "4", "--liveness-s", "3"
    )
    assert code == 1, said
    assert BREAKS[kind] in clauses(said, "BROKEN"), said
    assert "the image sets no aip variable itself" in clauses(said, "kept") or "sets" in kind
    if kind not in NEEDS_HEALTH | {"a bare array", "exits", "healthy before it predicts"}:
        assert "a bad request does not harm others at the same time" in clauses(said, "kept"), said


def test_a_whole_server_keeps_every_clause(image: str, tmp_path: Path) -> None:
    tag = broken_image(image, "whole", tmp_path)
    code, said = put_to_contract(
        tag, [3, 1, 2], "--instances", str(tmp_path / "i"), "--ready-s", "30"
    )
    assert code == 0, said
    assert not clauses(said, "BROKEN")


def test_our_image_keeps_every_clause_with_the_least_of_rights(image: str, tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    code, said = put_to_contract(
        image,
        [{"b64": base64} for base64, _ in held_out(5)],
        "--instances",
        str(tmp_path / "i"),
        "--rights",
        "least",
        "--junit",
        str(junit),
    )
    assert code == 0, said
    suite = ET.parse(junit).getroot()[0]  # noqa: S314  we wrote it
    assert int(suite.attrib["tests"]) == len(clauses(said, "kept")) > 20
    assert suite.attrib["failures"] == suite.attrib["errors"] == suite.attrib["skipped"] == "0"


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


@pytest.fixture(scope="module")
def sample(image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build an image as Google's samples do: TorchServe, its JSON envelope, a port of its own."""
    folder = tmp_path_factory.mktemp("sample")
    stock.pack(folder).chmod(0o644)
    (folder / "Dockerfile").write_text(SAMPLE)
    # The whole of it: our image has only what it serves with.
    jar = shutil.copy(
        Path(sysconfig.get_path("purelib"), "ts", "frontend", "model-server.jar"), folder
    )
    Path(jar).chmod(0o644)
    (folder / "config.properties").write_text(SAMPLE_SETTINGS)
    build = ("build", "--tag", "contract-test:sample", "--build-arg", f"BASE={image}", str(folder))
    docker(*build, timeout_s=300)
    return "contract-test:sample"


def test_of_an_image_in_the_style_of_google_s_samples_the_broken_clauses_are_named(
    sample: str, tmp_path: Path
) -> None:
    pictures = [{"b64": base64} for base64, _ in held_out(5)]
    code, said = put_to_contract(
        sample,
        pictures,
        "--instances",
        str(tmp_path / "i"),
        "--port",
        "7080",
        "--health-route",
        "/ping",
        "--predict-route",
        "/predictions/model",
    )
    assert code == 1, said
    assert clauses(said, "BROKEN") == {"the answer is json and says so"} | {
        f"a fault of the client s is a 4xx[{fault}]"
        for fault in (
            "a body that is no JSON",
            "a body without instances",
            "instances that are no array",
            "no instance at all",
        )
    }, said


def test_uploaded_without_its_own_port_and_routes_the_sample_never_becomes_healthy(
    sample: str, tmp_path: Path
) -> None:
    code, said = put_to_contract(
        sample, [3], "--instances", str(tmp_path / "i"), "--liveness-s", "5"
    )
    assert code == 1
    assert "it listens on AIP_HTTP_PORT on all addresses within 40 s" in clauses(said, "BROKEN")
