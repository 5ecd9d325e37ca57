"""python -m functions deploy, with the real gcloud and the emulator, and the deployed functions."""

import re
import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest

from emulator import artifacts
from emulator.stack import Stack
from functions.upload import find_model_files
from project.model_folder import DEFAULT
from storage.lazy import sha256
from tests import cases
from tests.cloud.conftest import PROJECT, REGION, Run
from tests.cloud.guide import REAL_CLOUD, SLOW, check_example, read_examples
from tests.functions.conftest import EVERY
from tests.http import Endpoint
from tests.images import ROOT, TOY
from tests.programs import Result
from tests.wheels import write_wheel

OPTIONS = f"--project {PROJECT} --region {REGION}"


def deployed_function(stack: Stack) -> Any:
    """Return the only deployed functions_v2.Function."""
    (function,) = stack.state.functions.values()
    return function


def get_endpoint(result: Result) -> Endpoint:
    """Return the URL that a deployment printed; fail if the deployment failed."""
    assert result.code == 0, result.err
    url = re.search(r"is deployed at (\S+):\n", result.out)
    assert url is not None, result.out
    return Endpoint(url[1] + "/")


def new_uri() -> str:
    """Return the URI of a folder in a bucket that no other test uses."""
    return f"gs://functions-{uuid.uuid4()}/models"


def test_deployed_function_answers(stack: Stack, python: Run) -> None:
    result = python(f"-m functions deploy hello {OPTIONS}")
    assert get_endpoint(result).post(b'{"message": "deployed"}').body == "deployed"
    function = deployed_function(stack)
    assert function.name == f"projects/{PROJECT}/locations/{REGION}/functions/hello"
    build, service = function.build_config, function.service_config
    assert (build.runtime, build.entry_point) == ("python311", "hello")
    # An idle function costs nothing, and a peak of requests is bounded.
    assert (service.min_instance_count, service.max_instance_count) == (0, 5)
    assert not stack.state.iam_policies
    assert "Authorization: Bearer $(gcloud auth print-identity-token)" in result.out
    assert "gcloud functions delete hello --gen2" in result.out


@pytest.mark.full
def test_second_deployment_can_allow_unauthenticated_requests(stack: Stack, python: Run) -> None:
    get_endpoint(python(f"-m functions deploy hello {OPTIONS}"))
    result = python(f"-m functions deploy hello {OPTIONS} --allow-unauthenticated")
    get_endpoint(result)
    (policy,) = stack.state.iam_policies.values()
    assert [(b.role, list(b.members)) for b in policy.bindings] == [
        ("roles/run.invoker", ["allUsers"])
    ]
    assert "Authorization" not in result.out


@pytest.mark.parametrize(
    ("name", "uploaded", "message"),
    [
        ("knn", [], "make upload-model NAME=knn STORAGE="),
        ("", [], "make upload-model MODEL=tests/toy STORAGE="),
        ("", ["labels.json"], "backend.json, requests.json, weights.safetensors not found"),
    ],
)
def test_function_is_not_deployed_if_a_file_of_its_model_is_missing(
    stack: Stack, python: Run, name: str, uploaded: list[str], message: str
) -> None:
    uri = new_uri()
    bucket, folder = artifacts.split_uri(uri)
    with artifacts.storage_client(stack.state.config) as storage:
        for file in uploaded:
            storage.create_bucket(bucket).blob(f"{folder}/{file}").upload_from_string("{}")
    result = python(f"-m functions deploy {name} {OPTIONS} --storage {uri}")
    assert result.code == 1
    assert message in result.err
    assert not stack.state.uploads


@pytest.mark.full
@pytest.mark.parametrize("name", ["knn", "toy"])
def test_function_uses_the_uploaded_model_pinned_by_checksum(
    stack: Stack, python: Run, name: str
) -> None:
    uri, function = new_uri(), EVERY[name]
    selected = "" if function.model else name
    if name == "knn":
        assert python("-m functions.knn.train").code == 0
    upload = python(f"-m functions upload {selected} {OPTIONS} --storage {uri}")
    assert upload.code == 0, upload.err
    endpoint = get_endpoint(python(f"-m functions deploy {selected} {OPTIONS} --storage {uri}"))
    if name == "knn":
        assert endpoint.post(b'{"input_data": "5,3,1,0"}').body == "Belongs to class: [0]"
    else:
        response = endpoint.post(cases.CASES[0].body)
        cases.check_response(cases.CASES[0], response.code, response.body)
    config = deployed_function(stack).service_config
    checksums = [sha256(file) for file in find_model_files(function).values()]
    assert dict(config.environment_variables) == {
        "STORAGE_URI": uri,
        "MODEL_SHA256": ",".join(checksums),
    }
    assert config.available_memory == function.memory
    assert config.max_instance_request_concurrency == function.concurrency


@pytest.mark.full
def test_packages_of_a_model_are_installed_in_its_function(python: Run, tmp_path: Path) -> None:
    folder, uri = tmp_path / "packaged-toy", new_uri()
    shutil.copytree(TOY, folder)
    code = (folder / "model.py").read_text()
    (folder / "model.py").write_text(code.replace("import torch\n", "import names\nimport torch\n"))
    write_wheel(folder, "names", "1.0")
    (folder / "requirements.txt").write_text("./names-1.0-py3-none-any.whl\n")
    try:
        for command in ("serving.archive", f"functions upload {OPTIONS} --storage {uri}"):
            done = python(f"-m {command} --model {folder}")
            assert done.code == 0, done.err
        line = f"-m functions deploy {OPTIONS} --storage {uri} --model {folder}"
        response = get_endpoint(python(line)).post(cases.CASES[0].body)
        cases.check_response(cases.CASES[0], response.code, response.body)
    finally:
        for path in ("build/packaged-toy", "build/functions/packaged-toy"):
            shutil.rmtree(ROOT / path, ignore_errors=True)


@pytest.mark.full
def test_permission_error_of_gcloud_is_printed_without_a_traceback(
    stack: Stack, python: Run
) -> None:
    stack.inject_fault("denied", "CreateFunction", "cloudfunctions.functions.create")
    result = python(f"-m functions deploy hello {OPTIONS}")
    assert result.code == 1
    assert "cloudfunctions.functions.create" in result.err
    assert "docs/functions.md" in result.err
    assert "Traceback" not in result.err


@pytest.mark.full
def test_source_with_a_missing_module_is_not_deployed(
    stack: Stack, python: Run, gcloud: Run, tmp_path: Path
) -> None:
    packaged = ROOT / python("-m functions source hello").out.strip()
    source = Path(shutil.copytree(packaged, tmp_path / "hello"))
    (source / "functions/http.py").unlink()
    result = gcloud(
        f"functions deploy hello --gen2 --region={REGION} --runtime=python311 --source={source} "
        "--entry-point=hello --trigger-http --no-allow-unauthenticated --quiet"
    )
    assert result.code == 1
    assert "No module named 'functions.http'" in result.err
    assert not stack.state.functions


@pytest.mark.full
def test_commands_of_the_guide_print_the_output_it_shows(stack: Stack) -> None:
    env, ran = stack.environment("my-project"), 0
    for each in read_examples(ROOT / "docs" / "functions.md"):
        if not each.command.endswith((SLOW, REAL_CLOUD)):
            # The page has the name of the default model in place of that of the tests' model.
            own = each._replace(output=each.output.replace(DEFAULT, "toy"))
            command = each.command.replace(f"MODEL={DEFAULT}", "MODEL=tests/toy")
            check_example(own, command.replace(DEFAULT, "toy"), env, ROOT)
            ran += 1
    assert ran >= 5
    assert not stack.state.functions
