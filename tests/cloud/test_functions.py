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
from tests.cloud.conftest import PROJECT, REGION, Done, Run
from tests.http import Endpoint
from tests.pictures import MODEL, ROOT

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


@pytest.fixture
def uri() -> str:
    """Return a folder of a bucket that nothing else uses."""
    return f"gs://functions-{uuid.uuid4()}/models"


def test_a_function_is_deployed_and_answers(empty: Stage, python: Run) -> None:
    done = python(f"-m functions deploy hello {TO}")
    assert answering(done).post(b'{"message": "rehearsed"}').body == "rehearsed"
    function = only(empty)
    assert function.name == f"projects/{PROJECT}/locations/{REGION}/functions/hello"
    assert (function.build_config.runtime, function.build_config.entry_point) == (
        "python311",
        "hello",
    )
    # Nobody is billed for a crowd, and nothing at rest.
    assert (
        function.service_config.min_instance_count,
        function.service_config.max_instance_count,
    ) == (0, 5)
    assert not empty.world.invokers
    assert "Authorization: Bearer $(gcloud auth print-identity-token)" in done.out
    assert "gcloud functions delete hello --gen2" in done.out


@pytest.mark.full
def test_deployed_again_it_may_be_opened_to_everybody_listed_and_deleted(
    empty: Stage, python: Run, gcloud: Run
) -> None:
    answering(python(f"-m functions deploy hello {TO}"))
    done = python(f"-m functions deploy hello {TO} --allow-unauthenticated")
    endpoint = answering(done)
    (policy,) = empty.world.invokers.values()
    assert [(b.role, list(b.members)) for b in policy.bindings] == [
        ("roles/run.invoker", ["allUsers"])
    ]
    assert "Authorization" not in done.out
    listed = gcloud("functions list --v2 --format=value(name.basename(),state)")
    assert listed.out.split() == ["hello", "ACTIVE"], listed.err
    done = gcloud(f"functions delete hello --gen2 --region={REGION} --quiet")
    assert done.code == 0, done.err
    assert not empty.world.functions
    with pytest.raises(ConnectionRefusedError):
        endpoint.post(b"")


@pytest.mark.parametrize("name", ["knn", "digits"])
def test_without_its_model_nothing_is_begun(empty: Stage, python: Run, uri: str, name: str) -> None:
    done = python(f"-m functions deploy {name} {TO} --storage {uri}")
    assert done.code == 1
    assert f"make upload-model NAME={name} STORAGE={uri}" in done.err
    assert not empty.world.uploads


def test_an_incomplete_model_is_named_before_anything_is_begun(
    empty: Stage, python: Run, uri: str
) -> None:
    with artifacts.client(empty.world.rules) as storage:
        bucket, folder = artifacts.split(uri)
        storage.create_bucket(bucket).blob(f"{folder}/model.json").upload_from_string("{}")
    done = python(f"-m functions deploy digits {TO} --storage {uri}")
    assert "weights.safetensors, golden.json missing in it" in done.err
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
def test_digits_answers_as_the_endpoint_does(empty: Stage, python: Run, uri: str) -> None:
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


def test_a_dry_run_shows_gcloud_s_line_and_begins_nothing(empty: Stage, python: Run) -> None:
    done = python(f"-m functions deploy hello {TO} --dry-run")
    assert "would run gcloud functions deploy hello --gen2" in done.out
    assert not empty.world.uploads


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


def laid_out(python: Run, tmp_path: Path) -> Path:
    """Return hello's source, to be spoilt."""
    where = ROOT / python("-m functions source hello").out.strip()
    return Path(shutil.copytree(where, tmp_path / "hello"))


def deploys(gcloud: Run, source: Path, more: str = "") -> Done:
    return gcloud(
        f"functions deploy hello --gen2 --region={REGION} --runtime=python311 --source={source} "
        f"--entry-point=hello --trigger-http --no-allow-unauthenticated {more} --quiet"
    )


@pytest.mark.full
def test_the_laid_out_source_is_all_that_gcloud_needs(
    empty: Stage, python: Run, gcloud: Run, tmp_path: Path
) -> None:
    assert deploys(gcloud, laid_out(python, tmp_path)).code == 0
    assert Endpoint(only(empty).url + "/").post(b"").body == "Hello World!"


@pytest.mark.full
def test_a_source_that_does_not_start_fails_its_deployment(
    empty: Stage, python: Run, gcloud: Run, tmp_path: Path
) -> None:
    source = laid_out(python, tmp_path)
    (source / "functions/asked.py").unlink()
    done = deploys(gcloud, source)
    assert done.code == 1
    assert "No module named 'functions.asked'" in done.err
    assert not empty.world.functions


@pytest.mark.full
def test_a_requirement_that_is_not_what_is_tested_here_fails_the_build(
    python: Run, gcloud: Run, tmp_path: Path
) -> None:
    source = laid_out(python, tmp_path)
    (source / "requirements.txt").write_text("functions-framework==1.0.0\n")
    assert "Build failed: no functions-framework==1.0.0" in deploys(gcloud, source).err


@pytest.mark.full
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            "--memory=512Mi --cpu=0.5 --concurrency=2",
            "Total cpu < 1 is not supported with concurrency",
        ),
        ("--memory=2Gi --cpu=0.5", "Invalid value: 2048.0 MiB with 0.5 cpu"),
    ],
)
def test_a_part_of_a_cpu_is_refused_as_google_does(
    python: Run, gcloud: Run, tmp_path: Path, settings: str, says: str
) -> None:
    assert says in deploys(gcloud, laid_out(python, tmp_path), settings).err
