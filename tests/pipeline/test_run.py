"""The pipeline on this machine: a worse candidate is stopped, a good one is served, nothing is done twice."""

import re

import pytest

from rehearsal.stage import Stage
from tests.cloud.conftest import TINY as IMAGE
from tests.cloud.conftest import traffic
from tests.pictures import ROOT
from tests.pipeline.conftest import TINY, Clone, Ran

PROJECT, REGION = "pipeline-tests", "us-central1"


def states(ran: Ran) -> dict[str, str]:
    """Return how each step went, as the command told at its end."""
    found = re.findall(r"^  (done|failed|cached|not run) +(\w+)$", ran.out, re.MULTILINE)
    return {step: state for state, step in found}


@pytest.fixture(scope="module")
def worse(clone: Clone) -> Ran:
    """Run it with a network that learned next to nothing, while a good archive serves."""
    return clone.pipeline("run", "--until", "archive", *TINY, "--least", "0.05")


def test_a_candidate_that_is_worse_stops_the_pipeline_and_no_later_step_runs(
    clone: Clone, worse: Ran
) -> None:
    assert worse.code == 1
    assert states(worse) == {
        "train": "done",
        "evaluate": "done",
        "gate": "failed",
        "export": "not run",
        "archive": "not run",
    }
    assert re.search(
        r"the pipeline stops here: the candidate reads \d+\.\d% of the held-out pictures right, what serves "
        r"now \d+\.\d%: worse by more than the 1\.0% that is tolerated\. What serves now goes on serving\.",
        worse.out,
    )
    assert [record["step"] for record in clone.records()] == ["train", "evaluate", "gate"]
    assert clone.archive.read_bytes() == (ROOT / "build/model-store/digits.mar").read_bytes()


def test_the_evaluation_of_a_candidate_that_was_stopped_is_kept_with_its_pictures(
    clone: Clone, worse: Ran
) -> None:
    assert worse.code == 1
    outputs = clone.records()[1]["outputs"]
    folder = clone.root / outputs["pictures"]["uri"]
    assert {file.name for file in folder.iterdir()} == {
        "accuracy.png",
        "misread.png",
        "confusion.txt",
        "report.html",
        "report.json",
    }
    assert "data:image/png;base64," in (clone.root / outputs["report"]["uri"]).read_text()


def test_a_training_that_ran_is_not_run_again(clone: Clone, worse: Ran) -> None:
    assert worse.code == 1
    again = clone.pipeline("run", "--until", "gate", *TINY, "--serving", "none", "--least", "0.05")
    assert again.code == 0, again.out + again.err
    assert states(again) == {"train": "cached", "evaluate": "done", "gate": "done"}
    assert "nothing serves yet" in again.out
    assert states(clone.pipeline("run", "--until", "train", *TINY)) == {"train": "cached"}


def test_from_a_cached_training_to_an_endpoint_that_answers_and_back_to_where_it_came_from(
    clone: Clone, worse: Ran, empty: Stage
) -> None:
    assert worse.code == 1
    # What is uploaded is an image of a second: to push the one that was built takes longer than all the rest.
    env = {**empty.environment(PROJECT), "DEPLOY_IMAGE": f"{IMAGE}:1"}
    where = ("--project", PROJECT, "--region", REGION)
    ran = clone.pipeline("run", *where, *TINY, "--least", "0.05", env=env)
    assert ran.code == 0, ran.out + ran.err
    assert states(ran) == {
        "train": "cached",
        "evaluate": "done",
        "gate": "done",
        "export": "done",
        "archive": "done",
        "build": "done",
        "contract": "done",
        "upload": "done",
        "canary": "done",
        "promote": "done",
    }
    assert "nothing serves yet" in ran.out  # the evaluation asked the endpoint, which is not there
    assert "version 1 is the first, and gets everything" in ran.out
    assert traffic(empty) == {"1": 100}
    told = clone.pipeline("lineage").out
    steps = (
        r"^  archive .+\n  gate .+\nof exported .+\n  export .+\nof model .+\n  train .+epochs 1"
    )
    assert re.search(steps, told, re.MULTILINE), told
