"""The pipeline on this machine: a worse candidate is stopped, a good one is served, nothing is done twice."""

import re

import pytest

from emulator.stack import Stack
from pipeline.steps import STEPS
from tests.cloud.conftest import TINY as IMAGE
from tests.cloud.conftest import traffic_by_version
from tests.images import ROOT
from tests.pipeline.conftest import Clone
from tests.programs import Result

pytestmark = [pytest.mark.xdist_group("pipeline"), pytest.mark.full]
PROJECT = "pipeline-tests"
TINY = ("--pictures", "1024", "--epochs", "1", "--examined", "60", "--least", "0.05")
"""A training of seconds, whose network reads one digit in ten, and an evaluation of seconds."""


def states(ran: Result) -> dict[str, str]:
    """Return how each step went, as the command told at its end."""
    found = re.findall(r"^  (done|failed|cached|not run) +(\w+)$", ran.out, re.MULTILINE)
    return {step: state for state, step in found}


@pytest.fixture(scope="module")
def worse(clone: Clone) -> Result:
    """Run it with a network that learned next to nothing, while a good archive serves."""
    return clone.pipeline("run", "--until", "archive", *TINY)


def test_a_candidate_that_is_worse_stops_the_pipeline_and_its_evaluation_is_kept(
    clone: Clone, worse: Result
) -> None:
    assert worse.code == 1
    ran = {"train": "done", "evaluate": "done", "gate": "failed"}
    assert states(worse) == {**ran, "export": "not run", "archive": "not run"}
    assert re.search(
        r"the pipeline stops here: the candidate reads \d+\.\d% of the held-out pictures right, what serves "
        r"now \d+\.\d%: worse by more than the 1\.0% that is tolerated\. What serves now goes on serving\.",
        worse.out,
    )
    assert [record["step"] for record in clone.records()[0]] == list(ran)
    # After the whole run below it is another.
    assert clone.archive.read_bytes() == (ROOT / "build/model-store/digits.mar").read_bytes()
    outputs = clone.records()[0][1]["outputs"]
    files = {file.name for file in (clone.root / outputs["pictures"]["uri"]).iterdir()}
    assert files == {"misread.png", "confusion.txt", "report.html", "report.json"}
    assert "data:image/png;base64," in (clone.root / outputs["report"]["uri"]).read_text()


def test_from_a_cached_training_to_an_endpoint_that_answers_and_back_to_where_it_came_from(
    clone: Clone, worse: Result, stack: Stack
) -> None:
    assert worse.code == 1
    # What is uploaded is an image of a second: to push the one that was built takes longer than all the rest.
    env = {**stack.environment(PROJECT), "DEPLOY_IMAGE": f"{IMAGE}:1"}
    ran = clone.pipeline("run", "--project", PROJECT, "--region", "us-central1", *TINY, env=env)
    assert ran.code == 0, ran.out + ran.err
    assert states(ran) == dict.fromkeys(STEPS, "done") | {"train": "cached"}
    assert "nothing serves yet" in ran.out  # the evaluation asked the endpoint, which is not there
    assert "version 1 is the first, and gets everything" in ran.out
    assert traffic_by_version(stack) == {"1": 100}
    told = clone.pipeline("lineage").out
    steps = (
        r"^  archive .+\n  gate .+\nof exported .+\n  export .+\nof model .+\n  train .+epochs 1"
    )
    assert re.search(steps, told, re.MULTILINE), told
