"""python -m functions deploy: the real gcloud, the stand-in, and a function that then answers."""

import re
import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest

from functions.catalogue import DIGITS, FUNCTIONS, KNN
from rehearsal import artifacts
from rehearsal.stage import Stage
from storage.fetched import sha256
from tests import wire
from tests.cloud.conftest import PROJECT, REGION, Run
from tests.cloud.guide import ELSEWHERE, GOOGLE, run, shown
from tests.http import Endpoint
from tests.pictures import MODEL, ROOT
from tests.programs import Done

TO = f"--project {PROJECT} --region {REGION}"


def only(stage: Stage) -> Any:
    """Return the one functions_v2.Function that there is."""
    (function,) = stage.world.functions.values()
    return function


def answering(done: Done) -> Endpoint:
    """Return the URL that a deployment says its function answers at."""
    assert done.code == 0, done.err
    url = re.search(r"answers at (\S+):\n", done.out)
    assert url is not None, done.out
    return Endpoint(url[1] + "/")


def new_uri() -> str:
    """Return a folder of a bucket that nothing else uses."""
    return f"gs://functions-{uuid.uuid4()}/models"


def test_a_function_is_deployed_and_answers(empty: Stage, python: Run) -> None:
    done = python(f"-m functions deploy hello {TO}")
    assert answering(done).post(b'{"message": "rehearsed"}').body == "rehearsed"
    function = only(empty)
    assert function.name == f"projects/{PROJECT}/locations/{REGION}/functions/hello"
    build, service = function.build_config, function.service_config
    assert (build.runtime, build.entry_point) == ("python311", "hello")
    # Nobody is billed for a crowd, and nothing at rest.
    assert (service.min_instance_count, service.max_instance_count) == (0, 5)
    assert not empty.world.invokers
    assert "Authorization: Bearer $(gcloud auth print-identity-token)" in done.out
    assert "gcloud functions delete hello --gen2" in done.out


@pytest.mark.full
def test_deployed_again_it_may_be_opened_to_everybody(empty: Stage, python: Run) -> None:
    answering(python(f"-m functions deploy hello {TO}"))
    done = python(f"-m functions deploy hello {TO} --allow-unauthenticated")
    answering(done)
    (policy,) = empty.world.invokers.values()
    assert [(b.role, list(b.members)) for b in policy.bindings] == [
        ("roles/run.invoker", ["allUsers"])
    ]
    assert "Authorization" not in done.out


@pytest.mark.parametrize(
    ("name", "lies", "says"),
    [
        ("knn", [], "make upload-model NAME=knn STORAGE="),
        ("digits", [], "make upload-model NAME=digits STORAGE="),
        ("digits", ["model.json"], "weights.safetensors, golden.json missing in it"),
    ],
)
def test_without_its_whole_model_nothing_is_begun(
    empty: Stage, python: Run, name: str, lies: list[str], says: str
) -> None:
    uri = new_uri()
    bucket, folder = artifacts.split(uri)
    with artifacts.client(empty.world.rules) as storage:
        for each in lies:
            storage.create_bucket(bucket).blob(f"{folder}/{each}").upload_from_string("{}")
    done = python(f"-m functions deploy {name} {TO} --storage {uri}")
    assert done.code == 1
    assert says in done.err
    assert not empty.world.uploads


@pytest.mark.full
def test_knn_is_uploaded_deployed_and_answers(empty: Stage, python: Run) -> None:
    # Neither names a bucket: gs://PROJECT-models/knn, made where it is missing.
    assert python("-m functions.knn.train").code == 0
    uploaded = python(f"-m functions upload knn {TO}")
    assert uploaded.code == 0, uploaded.err
    assert f"made gs://{PROJECT}-models in {REGION}, closed to the public" in uploaded.out
    endpoint = answering(python(f"-m functions deploy knn {TO}"))
    assert endpoint.post(b'{"input_data": "5,3,1,0"}').body == "Belongs to class: [0]"
    assert dict(only(empty).service_config.environment_variables) == {
        "STORAGE_URI": f"gs://{PROJECT}-models/knn",
        "MODEL_SHA256": sha256(ROOT / KNN.made / KNN.model[0]),
    }


@pytest.mark.full
def test_digits_answers_as_the_endpoint_does(empty: Stage, python: Run) -> None:
    uri = new_uri()
    uploaded = python(f"-m functions upload digits {TO} --storage {uri}")
    assert uploaded.code == 0, uploaded.err
    endpoint = answering(python(f"-m functions deploy digits {TO} --storage {uri}"))
    for case in (wire.CASES[0], wire.CASES[-1]):
        answer = endpoint.post(case.body)
        wire.check(case, answer.code, answer.body)
    config = only(empty).service_config
    pins = ",".join(sha256(MODEL / name) for name in DIGITS.model)
    assert config.environment_variables["MODEL_SHA256"] == pins
    assert (config.available_memory, config.max_instance_request_concurrency) == (
        FUNCTIONS["digits"].memory,
        FUNCTIONS["digits"].concurrency,
    )


@pytest.mark.full
def test_what_gcloud_refuses_ends_with_its_words_and_no_traceback(
    empty: Stage, python: Run
) -> None:
    empty.fault("denied", "CreateFunction", "cloudfunctions.functions.create")
    done = python(f"-m functions deploy hello {TO}")
    assert done.code == 1
    assert "cloudfunctions.functions.create" in done.err
    assert "docs/functions.md" in done.err
    assert "Traceback" not in done.err


@pytest.mark.full
@pytest.mark.parametrize("spoilt", [False, True], ids=["whole", "a module missing"])
def test_the_laid_out_source_is_all_that_gcloud_needs_and_all_of_it_is_needed(
    empty: Stage, python: Run, gcloud: Run, tmp_path: Path, spoilt: bool
) -> None:
    laid_out = ROOT / python("-m functions source hello").out.strip()
    source = Path(shutil.copytree(laid_out, tmp_path / "hello"))
    if spoilt:
        (source / "functions/asked.py").unlink()
    done = gcloud(
        f"functions deploy hello --gen2 --region={REGION} --runtime=python311 --source={source} "
        "--entry-point=hello --trigger-http --no-allow-unauthenticated --quiet"
    )
    assert done.code == spoilt
    if spoilt:
        assert "No module named 'functions.asked'" in done.err
        assert not empty.world.functions
    else:
        assert Endpoint(only(empty).url + "/").post(b"").body == "Hello World!"


@pytest.mark.full
def test_every_command_of_the_guide_prints_what_it_shows(empty: Stage) -> None:
    env, ran = empty.environment("my-project"), 0
    for each in shown(ROOT / "docs" / "functions.md"):
        if not each.command.endswith((ELSEWHERE, GOOGLE)):
            run(each, each.command, env, ROOT)
            ran += 1
    assert ran >= 5
    assert not empty.world.functions
