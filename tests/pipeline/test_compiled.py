"""The committed pipeline.yaml: up to date, with the steps in order and only safe steps cached."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.steps import CACHED, STEPS
from tests.images import ROOT
from tests.programs import run_program

COMMITTED = ROOT / "pipeline/pipeline.yaml"


def compile_pipeline(kfp: Path, out: Path, *options: str) -> str:
    command = [str(kfp), "-m", "pipeline.definition", "--out", str(out), *options]
    done = run_program(command)
    assert done.code == 0, done.err
    return out.read_text()


@pytest.fixture(scope="module")
def committed() -> Any:
    """Return the committed pipeline."""
    return yaml.safe_load(COMMITTED.read_text())


def test_committed_yaml_is_up_to_date(kfp: Path, tmp_path: Path) -> None:
    assert compile_pipeline(kfp, tmp_path / "p.yaml") == COMMITTED.read_text(), (
        "python -m pipeline compile"
    )


def test_each_step_depends_on_the_previous_one(committed: Any) -> None:
    tasks = committed["root"]["dag"]["tasks"]
    assert set(tasks) == set(STEPS)
    for previous, step in itertools.pairwise(STEPS):
        assert previous in tasks[step]["dependentTasks"], step


def test_only_steps_that_depend_on_nothing_but_their_inputs_are_cached(committed: Any) -> None:
    tasks = committed["root"]["dag"]["tasks"]
    cached = {name for name, task in tasks.items() if task["cachingOptions"].get("enableCache")}
    assert cached == set(CACHED)


def test_committed_pipeline_is_for_any_model(committed: Any) -> None:
    assert committed["pipelineInfo"]["name"] == "model"
    parameters = committed["root"]["inputDefinitions"]["parameters"]
    assert "defaultValue" not in parameters["model"]
    for name, task in committed["root"]["dag"]["tasks"].items():
        assert task["inputs"]["parameters"]["model"] == {"componentInputParameter": "model"}, name
    assert "digits" not in COMMITTED.read_text()


def test_results_of_the_evaluation_have_types_that_vertex_ai_displays(committed: Any) -> None:
    outputs = committed["components"]["comp-evaluate"]["outputDefinitions"]["artifacts"]
    kinds = {name: each["artifactType"]["schemaTitle"] for name, each in outputs.items()}
    assert kinds == {
        "report": "system.HTML",
        "metrics": "system.Metrics",
        "confusion_matrix": "system.ClassificationMetrics",
        "report_files": "system.Artifact",
    }


def test_pipeline_compiles_up_to_a_step_with_another_image_and_a_models_name(
    kfp: Path, tmp_path: Path
) -> None:
    options = ("--until", "gate", "--image", "host/steps@sha256:1", "--name", "flowers")
    cut = yaml.safe_load(compile_pipeline(kfp, tmp_path / "cut.yaml", *options))
    assert set(cut["root"]["dag"]["tasks"]) == set(STEPS[:4])
    assert cut["pipelineInfo"]["name"] == "flowers"
    executors = cut["deploymentSpec"]["executors"].values()
    assert {each["container"]["image"] for each in executors} == {"host/steps@sha256:1"}
