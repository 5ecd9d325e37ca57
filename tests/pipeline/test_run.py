"""Local runs of the pipeline: a good candidate is deployed, a worse one is stopped, cached steps are not rerun."""

import re
import sys
import zipfile
from pathlib import Path

import pytest

from emulator.stack import Stack
from pipeline.steps import STEPS
from tests.cloud.conftest import TINY as IMAGE
from tests.cloud.conftest import traffic_by_version
from tests.pipeline.conftest import TRAINABLE, Clone
from tests.programs import Result, run_program

pytestmark = pytest.mark.xdist_group("pipeline")
PROJECT = "pipeline-tests"
UNTIL_GATE = dict.fromkeys(STEPS[: STEPS.index("gate") + 1], "done")
WORSE = ("run", "--until", "gate", "--train", "--seed 1 --shift 9")


def parse_states(ran: Result) -> dict[str, str]:
    """Return the state of each step, as the command prints it at its end."""
    found = re.findall(r"^  (done|failed|cached|not run) +(\w+)$", ran.out, re.MULTILINE)
    return {step: state for state, step in found}


def read_threshold(archive: Path) -> float:
    """Return the trained number in an archive."""
    with zipfile.ZipFile(archive) as contents:
        return float(contents.read("threshold.json"))


@pytest.fixture(scope="module")
def first(clone: Clone) -> Result:
    """Run the pipeline for the first time."""
    ran = clone.pipeline("run", "--until", "gate")
    assert ran.code == 0, ran.out + ran.err
    return ran


@pytest.fixture(scope="module")
def worse(clone: Clone, first: Result) -> tuple[Result, bytes]:
    """Run it with a worse candidate; return the result, and the archive of the first."""
    assert first.code == 0
    archive = clone.archive.read_bytes()
    return clone.pipeline(*WORSE), archive


def test_good_candidate_is_installed_as_if_make_had_built_it(clone: Clone, first: Result) -> None:
    assert parse_states(first) == UNTIL_GATE
    assert "held-out score is 1.000; no model is serving yet" in first.out
    assert abs(read_threshold(clone.archive)) < 1
    assert {each["model"] for each in clone.records()[0]} == {"threshold"}
    packed = run_program(
        [sys.executable, "-m", "serving.archive", "--model", TRAINABLE], cwd=clone.root
    )
    assert "threshold.mar" in packed.out
    assert "up to date" in packed.out, packed.out + packed.err


def test_worse_candidate_stops_the_pipeline_and_its_report_is_kept(
    clone: Clone, worse: tuple[Result, bytes]
) -> None:
    ran, archive = worse
    assert ran.code == 1
    assert parse_states(ran) == UNTIL_GATE | {"gate": "failed"}
    assert (
        "candidate rejected: the candidate's held-out score is 0.800, the serving model's is 1.000: "
        "the difference exceeds the tolerance of 0.010. The serving model stays in place."
        in ran.out
    )
    # Neither the archive nor the weights were replaced.
    assert clone.archive.read_bytes() == archive
    weights = clone.root / "build/threshold/weights/threshold.json"
    assert abs(float(weights.read_text())) < 1
    outputs = clone.records()[1][2]["outputs"]
    files = {file.name for file in (clone.root / outputs["report_files"]["uri"]).iterdir()}
    assert files == {"report.html", "report.json"}
    page = (clone.root / outputs["report"]["uri"]).read_text()
    assert re.search(r"^near +0\.600 +1\.000$", page, re.MULTILINE)
    assert "Worse than the serving model: 8<" in page


@pytest.mark.full
def test_model_without_training_and_held_out_instances_is_packed_as_it_is(
    clone: Clone, first: Result
) -> None:
    assert first.code == 0
    ran = clone.pipeline("run", "--until", "gate", model="tests/toy")
    assert ran.code == 0, ran.out + ran.err
    assert parse_states(ran) == UNTIL_GATE
    assert "tests/toy has no train.py: the weights in the folder are used" in ran.out
    assert ran.out.count("toy has no held-out.json: the candidate is not evaluated") == 2
    assert (clone.root / "build/toy/toy.mar").is_file()
    lineage = clone.pipeline("lineage", model="tests/toy").out
    assert "toy.mar" in lineage
    assert "threshold" not in lineage
    options = ("run", "--until", "gate", "--train", "--epochs 2")
    failed = clone.pipeline(*options, model="tests/toy")
    assert parse_states(failed)["train"] == "failed"
    assert "has no train.py, so --data and --train have no effect" in failed.out


@pytest.mark.full
def test_weights_in_a_folder_take_the_place_of_training(
    clone: Clone, worse: tuple[Result, bytes], tmp_path: Path
) -> None:
    assert worse[0].code == 1
    (tmp_path / "threshold.json").write_text("0.25")
    (tmp_path / "held-out.json").write_text('[{"instance": 0.5, "truth": "high"}]')
    ran = clone.pipeline("run", "--until", "gate", "--weights", str(tmp_path))
    assert ran.code == 0, ran.out + ran.err
    assert "the candidate's held-out score is 1.000, the serving model's is 1.000" in ran.out
    assert read_threshold(clone.archive) == 0.25


@pytest.mark.full
def test_pipeline_deploys_from_a_cached_training_and_prints_the_lineage(
    clone: Clone, worse: tuple[Result, bytes], stack: Stack
) -> None:
    assert worse[0].code == 1
    # A tiny image is uploaded: pushing the one that was built takes longer than the rest of the test.
    env = {**stack.environment(PROJECT), "DEPLOY_IMAGE": f"{IMAGE}:1"}
    ran = clone.pipeline("run", "--project", PROJECT, "--region", "us-central1", **env)
    assert ran.code == 0, ran.out + ran.err
    cached = {"train": "cached", "archive": "cached"}
    assert parse_states(ran) == dict.fromkeys(STEPS, "done") | cached
    assert "no model is serving yet" in ran.out  # the endpoint does not exist yet
    assert "version 1 is the first and gets all traffic" in ran.out
    assert traffic_by_version(stack, "threshold") == {"1": 100}
    (image,) = {each["image"] for each in clone.records()[-1] if "image" in each}
    assert image.startswith("pipeline-threshold:")
    lineage = clone.pipeline("lineage").out
    steps = (
        r"^  archive .+\n  gate .+no model is serving yet\nfrom trained .+\n  train .+source_hash"
    )
    assert re.search(steps, lineage, re.MULTILINE), lineage
