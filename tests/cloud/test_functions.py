"""python -m functions deploy: the real gcloud, the stand-in, and a function that then answers."""

import re
import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest

from emulator import artifacts
from emulator.stack import Stack
from functions.registry import FUNCTIONS
from storage.lazy import sha256
from tests import cases
from tests.cloud.conftest import PROJECT, REGION, Run
from tests.cloud.guide import REAL_CLOUD, SLOW, check_example, read_examples
from tests.http import Endpoint
from tests.images import ROOT
from tests.programs import Result

TO = f"--project {PROJECT} --region {REGION}"


def only(stack: Stack) -> Any:
    """Return the one functions_v2.Function that there is."""
    (function,) = stack.state.functions.values()
    return function


def answering(done: Result) -> Endpoint:
    """Return the URL that a deployment says its function answers at."""
    assert done.code == 0, done.err
    url = re.search(r"is deployed at (\S+):\n", done.out)
    assert url is not None, done.out
    return Endpoint(url[1] + "/")


def new_uri() -> str:
    """Return a folder of a bucket that nothing else uses."""
    return f"gs://functions-{uuid.uuid4()}/models"


def test_a_function_is_deployed_and_answers(stack: Stack, python: Run) -> None:
    done = python(f"-m functions deploy hello {TO}")
    assert answering(done).post(b'{"message": "rehearsed"}').body == "rehearsed"
    function = only(stack)
    assert function.name == f"projects/{PROJECT}/locations/{REGION}/functions/hello"
    build, service = function.build_config, function.service_config
    assert (build.runtime, build.entry_point) == ("python311", "hello")
    # Nobody is billed for a crowd, and nothing at rest.
    assert (service.min_instance_count, service.max_instance_count) == (0, 5)
    assert not stack.state.iam_policies
    assert "Authorization: Bearer $(gcloud auth print-identity-token)" in done.out
    assert "gcloud functions delete hello --gen2" in done.out


@pytest.mark.full
def test_deployed_again_it_may_be_opened_to_everybody(stack: Stack, python: Run) -> None:
    answering(python(f"-m functions deploy hello {TO}"))
    done = python(f"-m functions deploy hello {TO} --allow-unauthenticated")
    answering(done)
    (policy,) = stack.state.iam_policies.values()
    assert [(b.role, list(b.members)) for b in policy.bindings] == [
        ("roles/run.invoker", ["allUsers"])
    ]
    assert "Authorization" not in done.out


@pytest.mark.parametrize(
    ("name", "lies", "says"),
    [
        ("knn", [], "make upload-model NAME=knn STORAGE="),
        ("digits", [], "make upload-model NAME=digits STORAGE="),
        ("digits", ["model.json"], "weights.safetensors, golden.json not found"),
    ],
)
def test_without_its_whole_model_nothing_is_begun(
    stack: Stack, python: Run, name: str, lies: list[str], says: str
) -> None:
    uri = new_uri()
    bucket, folder = artifacts.split_uri(uri)
    with artifacts.storage_client(stack.state.config) as storage:
        for each in lies:
            storage.create_bucket(bucket).blob(f"{folder}/{each}").upload_from_string("{}")
    done = python(f"-m functions deploy {name} {TO} --storage {uri}")
    assert done.code == 1
    assert says in done.err
    assert not stack.state.uploads


@pytest.mark.full
@pytest.mark.parametrize("name", ["knn", "digits"])
def test_a_model_is_uploaded_and_pinned_and_its_function_answers(
    stack: Stack, python: Run, name: str
) -> None:
    uri, function = new_uri(), FUNCTIONS[name]
    if name == "knn":
        assert python("-m functions.knn.train").code == 0
    uploaded = python(f"-m functions upload {name} {TO} --storage {uri}")
    assert uploaded.code == 0, uploaded.err
    endpoint = answering(python(f"-m functions deploy {name} {TO} --storage {uri}"))
    if name == "knn":
        assert endpoint.post(b'{"input_data": "5,3,1,0"}').body == "Belongs to class: [0]"
    else:
        answer = endpoint.post(cases.CASES[0].body)
        cases.check_response(cases.CASES[0], answer.code, answer.body)
    config = only(stack).service_config
    pins = ",".join(sha256(ROOT / function.model_folder / each) for each in function.model)
    assert dict(config.environment_variables) == {"STORAGE_URI": uri, "MODEL_SHA256": pins}
    assert config.available_memory == function.memory
    assert config.max_instance_request_concurrency == function.concurrency


@pytest.mark.full
def test_what_gcloud_refuses_ends_with_its_words_and_no_traceback(
    stack: Stack, python: Run
) -> None:
    stack.inject_fault("denied", "CreateFunction", "cloudfunctions.functions.create")
    done = python(f"-m functions deploy hello {TO}")
    assert done.code == 1
    assert "cloudfunctions.functions.create" in done.err
    assert "docs/functions.md" in done.err
    assert "Traceback" not in done.err


@pytest.mark.full
def test_a_source_that_lacks_a_module_is_not_deployed(
    stack: Stack, python: Run, gcloud: Run, tmp_path: Path
) -> None:
    laid_out = ROOT / python("-m functions source hello").out.strip()
    source = Path(shutil.copytree(laid_out, tmp_path / "hello"))
    (source / "functions/http.py").unlink()
    done = gcloud(
        f"functions deploy hello --gen2 --region={REGION} --runtime=python311 --source={source} "
        "--entry-point=hello --trigger-http --no-allow-unauthenticated --quiet"
    )
    assert done.code == 1
    assert "No module named 'functions.http'" in done.err
    assert not stack.state.functions


@pytest.mark.full
def test_every_command_of_the_guide_prints_what_it_shows(stack: Stack) -> None:
    env, ran = stack.environment("my-project"), 0
    for each in read_examples(ROOT / "docs" / "functions.md"):
        if not each.command.endswith((SLOW, REAL_CLOUD)):
            check_example(each, each.command, env, ROOT)
            ran += 1
    assert ran >= 5
    assert not stack.state.functions
