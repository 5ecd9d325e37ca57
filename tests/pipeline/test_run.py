"""Local runs of the pipeline: a worse candidate is stopped, a good one is deployed, cached steps are not rerun."""

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
TINY = ("--pictures", "1024", "--epochs", "1", "--eval-pictures", "60", "--min-accuracy", "0.05")
"""Training and evaluation within seconds, with an accuracy of about one in ten."""


def parse_states(ran: Result) -> dict[str, str]:
    """Return the state of each step, as the command prints it at its end."""
    found = re.findall(r"^  (done|failed|cached|not run) +(\w+)$", ran.out, re.MULTILINE)
    return {step: state for state, step in found}


@pytest.fixture(scope="module")
def worse(clone: Clone) -> Result:
    """Run the pipeline with a barely trained network, against a good local archive."""
    return clone.pipeline("run", "--until", "archive", *TINY)


def test_worse_candidate_stops_the_pipeline_and_its_report_is_kept(
    clone: Clone, worse: Result
) -> None:
    assert worse.code == 1
    ran = {"train": "done", "evaluate": "done", "gate": "failed"}
    assert parse_states(worse) == {**ran, "export": "not run", "archive": "not run"}
    assert re.search(
        r"candidate rejected: the candidate's held-out accuracy is \d+\.\d%, the serving model's is \d+\.\d%: "
        r"the difference exceeds the tolerance of 1\.0%\. The serving model stays in place\.",
        worse.out,
    )
    assert [record["step"] for record in clone.records()[0]] == list(ran)
    # The next test replaces this archive.
    assert clone.archive.read_bytes() == (ROOT / "build/model-store/digits.mar").read_bytes()
    outputs = clone.records()[0][1]["outputs"]
    files = {file.name for file in (clone.root / outputs["report_files"]["uri"]).iterdir()}
    assert files == {"misread.png", "confusion.txt", "report.html", "report.json"}
    assert "data:image/png;base64," in (clone.root / outputs["report"]["uri"]).read_text()


def test_pipeline_deploys_from_a_cached_training_and_prints_the_lineage(
    clone: Clone, worse: Result, stack: Stack
) -> None:
    assert worse.code == 1
    # A tiny image is uploaded: pushing the one that was built takes longer than the rest of the test.
    env = {**stack.environment(PROJECT), "DEPLOY_IMAGE": f"{IMAGE}:1"}
    ran = clone.pipeline("run", "--project", PROJECT, "--region", "us-central1", *TINY, env=env)
    assert ran.code == 0, ran.out + ran.err
    assert parse_states(ran) == dict.fromkeys(STEPS, "done") | {"train": "cached"}
    assert "no model is serving yet" in ran.out  # the endpoint does not exist yet
    assert "version 1 is the first and gets all traffic" in ran.out
    assert traffic_by_version(stack) == {"1": 100}
    lineage = clone.pipeline("lineage").out
    steps = r"^  archive .+\n  gate .+\nfrom exported_model .+\n  export .+\nfrom model .+\n  train .+epochs 1"
    assert re.search(steps, lineage, re.MULTILINE), lineage
