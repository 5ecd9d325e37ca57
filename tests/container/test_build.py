"""make build: each model's packages, requests and name are in its own image, and a missing package fails it."""

import json
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.container.conftest import (
    DOCKER,
    HARDENED,
    VERTEX,
    container_starter,
    docker,
    wait_until_healthy,
)
from tests.images import ROOT, request_body
from tests.programs import Result, run_program
from tests.wheels import sha256, write_wheel

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("builds")]

MODEL = """
import {module}
import torch

def load(folder, device):
    return Model()

class Model:
    def preprocess(self, instance):
        return torch.tensor([float(instance)])
    def inference(self, batch):
        return batch * 2
    def postprocess(self, output, parameters):
        return float(output[0])
"""
REQUESTS = [{"instance": 2, "expected": 4.0}, {"instance": 3, "expected": 6.0}]
Build = Callable[..., tuple[str, Result]]


@pytest.fixture
def build(image: str) -> Iterator[Build]:
    """Return a function that builds the image of a model folder; all are removed at the end.

    It needs the image, because that has the layers that all models share.
    """
    names = []

    def run(model: Path, *options: str) -> tuple[str, Result]:
        names.append(f"{image.partition(':')[0]}:{uuid.uuid4().hex[:12]}")
        make = ["make", "build", f"MODEL={model}", f"IMAGE={names[-1]}", f"DOCKER={DOCKER}"]
        return names[-1], run_program([*make, *options], cwd=ROOT, timeout_s=900)

    yield run
    for name in names:
        docker("image", "rm", "--force", name)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return the folder of a model; what is built of it is removed."""
    model = tmp_path / f"m{uuid.uuid4().hex[:8]}"
    model.mkdir()
    (model / "requests.json").write_text(json.dumps(REQUESTS))
    (model / "model.py").write_text(MODEL.format(module="json"))
    yield model
    subprocess.run(["rm", "-rf", str(ROOT / "build" / model.name)], check=True, timeout=60)


def list_layers(image: str) -> list[str]:
    layers: list[str] = json.loads(docker("inspect", "--format", "{{json .RootFS.Layers}}", image))
    return layers


def image_bytes(image: str) -> int:
    return int(docker("inspect", "--format", "{{.Size}}", image))


VERSIONS = "import importlib.metadata as m; print(*(m.version(n) for n in ('mine', 'torch')))"


@pytest.mark.parametrize("hashes", [False, True], ids=["without hashes", "with hashes"])
def test_local_wheel_is_in_the_image_and_torch_stays_as_it_is(
    build: Build, image: str, folder: Path, hashes: bool
) -> None:
    (folder / "model.py").write_text(MODEL.format(module="mine"))
    (folder / "wheels").mkdir()
    wheel = write_wheel(folder / "wheels", "mine", "1.0", "torch>=2")
    text = f"./wheels/{wheel.name}"
    if hashes:
        (version,) = run_python(image, "import torch; print(torch.__version__)").split()
        text += f" --hash={sha256(wheel)}\ntorch=={version} --hash=sha256:{'0' * 64}"
    (folder / "requirements.txt").write_text(f"  # a package of one's own\n{text}\n")
    built, done = build(folder)
    assert done.code == 0, done.err[-3000:]
    (torch,) = run_python(image, "import torch; print(torch.__version__)").split()
    assert run_python(built, VERSIONS).split() == ["1.0", torch]
    assert image_bytes(built) - image_bytes(image) < 1 << 20
    assert run_python(built, "import mine; print(mine.__cached__)").endswith(".pyc\n")
    # A second build, without the cache of the stage, gives the same layers.
    (folder / "requirements.txt").write_text(f"# the same\n{text}\n")
    again, done = build(folder)
    assert done.code == 0, done.err[-3000:]
    # Debian and the packages; the next layer has the archive, with the other requirements.txt.
    first, second = list_layers(built), list_layers(again)
    assert first[:2] == second[:2]
    assert first[2] != second[2]


def run_python(image: str, code: str) -> str:
    return docker("run", "--rm", "--entrypoint", "/opt/venv/bin/python", image, "-c", code) + "\n"


def test_package_that_requires_another_torch_fails_the_build(build: Build, folder: Path) -> None:
    """Another torch would not be the one that serving is tested with."""
    write_wheel(folder, "mine", "1.0", "torch<2")
    (folder / "requirements.txt").write_text("./mine-1.0-py3-none-any.whl\n")
    _, done = build(folder)
    assert done.code != 0
    assert "conflicting dependencies" in done.err


def test_package_that_only_the_development_environment_has_is_named_with_its_line(
    build: Build, folder: Path
) -> None:
    (folder / "model.py").write_text(MODEL.format(module="sklearn"))
    _, done = build(folder)
    assert done.code != 0
    version = run_program(
        ["sh", "-c", f"{ROOT}/.venv/bin/python -c 'import sklearn as s; print(s.__version__)'"]
    )
    line = f"add the line scikit-learn=={version.out.strip()} to requirements.txt of the model"
    assert line in done.out + done.err


def test_image_without_requirements_is_as_large_as_the_others_and_serves_its_own_name(
    build: Build, image: str, folder: Path
) -> None:
    built, done = build(folder)
    assert done.code == 0, done.err[-3000:]
    assert abs(image_bytes(built) - image_bytes(image)) < 100_000
    # The context has the archive of this model alone.
    listed = docker("run", "--rm", "--entrypoint", "ls", built, "/model-store").split()
    assert listed == [f"{folder.name}.mar", f"{folder.name}.mar.sha256"]
    with container_starter(built) as start:
        container = start(*HARDENED)
        endpoint = container.endpoint(8080, f"/predictions/{folder.name}")
        wait_until_healthy(endpoint, "/ping")
        assert json.loads(endpoint.post(request_body(2, 5)).body) == {"predictions": [4.0, 10.0]}
        assert container.endpoint(8080, "/predictions/toy").post(b"{}").code == 404


def test_archive_of_another_model_does_not_enter_the_build_context(
    build: Build, folder: Path
) -> None:
    other = ROOT / "build" / f"other{uuid.uuid4().hex[:8]}"
    (other / "packages").mkdir(parents=True)
    try:
        for name in ("other.mar", "packages/other.whl"):
            (other / name).write_bytes(bytes(60 << 20))
        _, done = build(folder)
        assert done.code == 0, done.err[-3000:]
        sizes = [line for line in done.err.splitlines() if "transferring context" in line]
        assert sizes
        assert not [line for line in sizes if "MB" in line], sizes
    finally:
        subprocess.run(["rm", "-rf", str(other)], check=True, timeout=60)


EMBEDDING = """
import torch
from torch import nn

def load(folder, device):
    torch.manual_seed(3)
    layers = [nn.Linear(64, 256), nn.GELU(), nn.LayerNorm(256), nn.Linear(256, 384)]
    return Embedding(nn.Sequential(*layers).eval().to(device))

class Embedding:
    def __init__(self, network):
        self.network = network
    def preprocess(self, instance):
        return torch.tensor([float(ord(letter)) for letter in instance.ljust(64)[:64]]) / 128
    def inference(self, batch):
        return nn.functional.normalize(self.network(batch), dim=1)
    def postprocess(self, output, parameters):
        return output
"""
CAPABILITIES = (None, "default", "avx2", "avx512")


def test_embeddings_made_on_this_cpu_start_and_are_the_same_on_other_cpus(
    build: Build, folder: Path
) -> None:
    (folder / "model.py").write_text(EMBEDDING)
    rows = [{"instance": text} for text in ("a first text", "another text")]
    (folder / "requests.json").write_text(json.dumps(rows))
    program = (
        "import json, pathlib, sys, torch; sys.path[:0] = [sys.argv[1], '.']; import model\n"
        "task, path = model.load(None, 'cpu'), pathlib.Path(sys.argv[1], 'requests.json')\n"
        "rows = json.loads(path.read_text())\n"
        "for row in rows: row['expected'] = task.inference(task.preprocess(row['instance'])[None])[0].tolist()\n"
        "path.write_text(json.dumps(rows))\n"
    )
    written = run_program([f"{ROOT}/.venv/bin/python", "-c", program, str(folder)])
    assert written.code == 0, written.err
    built, done = build(folder)
    assert done.code == 0, done.err[-3000:]
    body = request_body(*[row["instance"] for row in rows])
    vectors = []
    for capability in CAPABILITIES:
        environ = {"ATEN_CPU_CAPABILITY": capability} if capability else {}
        with container_starter(built) as start:
            container = start(*HARDENED, **VERTEX, **environ)
            endpoint = container.endpoint(9000, VERTEX["AIP_PREDICT_ROUTE"])
            wait_until_healthy(endpoint, VERTEX["AIP_HEALTH_ROUTE"])
            vectors.append(json.loads(endpoint.post(body).body)["predictions"])
    assert len({str(found) for found in vectors}) > 1, "the variable has no effect on this CPU"
    for found in vectors:
        for row, expected in zip(found, vectors[0], strict=True):
            assert row == pytest.approx(expected, rel=1e-3, abs=1e-4)
