"""The compiled pipeline: kept as it is compiled, each step after the one before."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.steps import CACHED, STEPS
from tests.images import ROOT
from tests.programs import run_program

KEPT = ROOT / "pipeline/pipeline.yaml"


def compiled(kfp: Path, out: Path, *words: str) -> str:
    command = [str(kfp), "-m", "pipeline.definition", "--out", str(out), *words]
    done = run_program(command)
    assert done.code == 0, done.err
    return out.read_text()


@pytest.fixture(scope="module")
def kept() -> Any:
    """Return the pipeline that is kept."""
    return yaml.safe_load(KEPT.read_text())


def test_the_yaml_that_is_kept_is_what_the_story_compiles_to(kfp: Path, tmp_path: Path) -> None:
    assert compiled(kfp, tmp_path / "p.yaml") == KEPT.read_text(), "python -m pipeline compile"


def test_each_step_waits_for_the_one_before(kept: Any) -> None:
    tasks = kept["root"]["dag"]["tasks"]
    assert set(tasks) == set(STEPS)
    for before, step in itertools.pairwise(STEPS):
        assert before in tasks[step]["dependentTasks"], step


def test_only_steps_whose_inputs_are_all_that_matters_are_cached(kept: Any) -> None:
    tasks = kept["root"]["dag"]["tasks"]
    cached = {name for name, task in tasks.items() if task["cachingOptions"].get("enableCache")}
    assert cached == set(CACHED)


def test_what_the_evaluation_draws_and_counts_are_artifacts_that_vertex_shows(kept: Any) -> None:
    outputs = kept["components"]["comp-evaluate"]["outputDefinitions"]["artifacts"]
    kinds = {name: each["artifactType"]["schemaTitle"] for name, each in outputs.items()}
    assert kinds == {
        "report": "system.HTML",
        "metrics": "system.Metrics",
        "confusion": "system.ClassificationMetrics",
        "pictures": "system.Artifact",
    }


def test_it_can_be_cut_after_a_step_and_given_another_image(kfp: Path, tmp_path: Path) -> None:
    options = ("--until", "archive", "--image", "host/steps@sha256:1")
    cut = yaml.safe_load(compiled(kfp, tmp_path / "cut.yaml", *options))
    assert set(cut["root"]["dag"]["tasks"]) == set(STEPS[:5])
    executors = cut["deploymentSpec"]["executors"].values()
    assert {each["container"]["image"] for each in executors} == {"host/steps@sha256:1"}
