"""Deployments from end to end in copies of this repository: models beside each other, a clone's build, `make e2e`."""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from emulator.config import EmulatorConfig
from emulator.stack import MissingProgramError, Stack, running
from emulator.state import project_number
from emulator.walkthrough import build_leftovers_removed
from tests.cloud.conftest import PROJECT, REGION
from tests.container.conftest import DOCKER
from tests.programs import Result, copy_repository, require_programs, run_program

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("e2e")]
TIMEOUT_S = 1500
TESTS = "tests/container -k wire_contract"
"""Enough to show that Cloud Build runs tests on the image."""

MODEL = """
import torch
{imports}

class Lengths:
    def preprocess(self, instance, parameters):
        return torch.tensor([float(len(instance))])

    def inference(self, batch):
        return batch * 1000

    def postprocess(self, output, parameters):
        return {expression}

def load(folder, device):
    return Lengths()
"""
WHEEL = "petals-1.0-py3-none-any.whl"


def write_model(folder: Path, requirements: str, imports: str, expression: str) -> None:
    """Write a model folder whose predictions are made with packages."""
    folder.mkdir()
    (folder / "model.py").write_text(MODEL.format(imports=imports, expression=expression))
    (folder / "requirements.txt").write_text(requirements)
    (folder / "requests.json").write_text('[{"instance": "rose"}, {"instance": "tulip"}]')


def write_wheel(path: Path) -> None:
    """Write a wheel with the module petals."""
    info = "petals-1.0.dist-info"
    files = {
        "petals.py": "NAME = 'petals'\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: petals\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in (files | {f"{info}/RECORD": record}).items():
            wheel.writestr(name, text)


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Stack]:
    """Start an emulator that waits for real images; skip the test if a program is missing."""
    config = EmulatorConfig(docker=DOCKER)
    try:
        with (
            running(config, report=lambda _: None) as stack,
            build_leftovers_removed(),
        ):
            yield stack
    except MissingProgramError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy this repository, and return the folder."""
    folder = tmp_path_factory.mktemp("models") / "checkout"
    copy_repository(folder)
    return folder


def describe_failed_steps(stack: Stack) -> str:
    """Return the ends of the logs of failed steps of builds."""
    return "\n".join(f"{step.name}: {step.log[-3000:]}" for step in stack.state.failed_steps)


def predict(stack: Stack, name: str, instance: object) -> object:
    """Return the prediction of an endpoint for one instance."""
    url = f"{stack.url}/v1/projects/{PROJECT}/locations/{REGION}/endpoints/{name}:predict"
    response = requests.post(url, json={"instances": [instance]}, timeout=60)
    assert response.ok, response.text
    return response.json()["predictions"][0]


def test_models_of_one_checkout_are_deployed_at_once_with_packages_of_their_own(
    own_stack: Stack, checkout: Path
) -> None:
    flowers = checkout.with_name("flowers")
    write_model(
        flowers,
        f"./{WHEEL}\nhumanize>=4\n",
        "import humanize, petals",
        "f'{petals.NAME} {humanize.intcomma(int(output))}'",
    )
    write_wheel(flowers / WHEEL)

    def make(*words: str) -> Result:
        command = ["make", "-s", *words, f"DOCKER={DOCKER}", f"PROJECT={PROJECT}"]
        env = own_stack.environment(PROJECT)
        return run_program([*command, f"REGION={REGION}"], env, cwd=checkout, timeout_s=TIMEOUT_S)

    # Cloud Build gets the archive, the requirements and the wheel of a folder outside of the checkout.
    done = make("deploy-endpoint", "MODEL=../flowers", "ARGS=--builder cloud")
    assert done.code == 0, done.out[-3000:] + done.err + describe_failed_steps(own_stack)
    assert '["petals 4,000"]' in done.out
    assert '["petals 5,000"]' in done.out
    done = make("deploy-endpoint", "MODEL=tests/toy", "ARGS=--builder local")
    assert done.code == 0, done.out[-3000:] + done.err
    assert predict(own_stack, "flowers", "daisies") == "petals 7,000"
    toy = json.loads((checkout / "build/toy/requests.json").read_text())[0]
    answer = predict(own_stack, "toy", toy["instance"])
    assert isinstance(answer, dict)
    assert answer["label"] == toy["expected"]["label"]
    status = make("status", "MODEL=../flowers").out
    assert "endpoint flowers: 1 deployed" in status
    assert "another endpoint, toy" in status
    names = {name.rpartition("/")[2] for name in own_stack.state.models}
    assert names == {"flowers", "toy"}

    # The tests' environment has scikit-learn, the image has not.
    write_model(checkout.with_name("trees"), "", "import sklearn", "float(output)")
    failed = make("deploy-endpoint", "MODEL=../trees", "ARGS=--builder cloud")
    assert failed.code != 0
    assert "add the line scikit-learn==" in failed.out, failed.out + failed.err
    assert "to requirements.txt" in failed.out
    assert "Cloud Build ended with FAILURE" in failed.err
    assert f"{PROJECT}/locations/{REGION}/endpoints/trees" not in str(own_stack.state.endpoints)


def test_build_of_a_clone_packs_the_model_first(own_stack: Stack, checkout: Path) -> None:
    done = run_program(
        [
            *("gcloud", "builds", "submit", "--config=cloudbuild.yaml", f"--region={REGION}"),
            f"--substitutions=_MODEL=tests/toy,_NAME=clone,_TAG=clone,_DEPLOY=upload,_REGISTRY={own_stack.registry}",
        ],
        own_stack.environment(PROJECT),
        cwd=checkout,
        timeout_s=TIMEOUT_S,
    )
    assert done.code == 0, done.err + describe_failed_steps(own_stack)
    parent = f"projects/{project_number(PROJECT)}/locations/{REGION}"
    (model,) = own_stack.state.models[f"{parent}/models/clone"].values()
    assert model.container_spec.predict_route == "/predictions/toy"
    assert "/models/clone@sha256:" in model.container_spec.image_uri


def test_make_e2e_runs_everything_from_build_to_teardown(tmp_path: Path) -> None:
    require_programs("gcloud", "docker-registry")
    copy_repository(tmp_path)
    command = ["make", "e2e", f"DOCKER={DOCKER}", f"ARGS=--tests '{TESTS}'"]
    result = run_program(command, cwd=tmp_path, timeout_s=TIMEOUT_S)
    assert result.code == 0, result.out[-3000:] + result.err
    cost, _, summary = result.out.strip().splitlines()[-3:]
    assert "nothing is running" in cost
    assert summary.startswith("All steps passed in ")
    # The build ran these tests and the contract suite.
    log = (tmp_path / "build/e2e.log").read_text()
    assert re.search(r"\d+ passed, \d+ deselected", log), log[-3000:]
    assert re.search(r"PASS +\S", log), log[-3000:]
