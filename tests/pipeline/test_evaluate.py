"""The evaluation: its pass criteria, its scores, the models it can compare with, its options and its report."""

import json
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pipeline import report, steps
from pipeline.errors import EvaluationError
from pipeline.evaluate import (
    MAX_REQUEST_BYTES,
    build_parser,
    build_requests,
    check_score,
    read_held_out,
)
from pipeline.options import replace_old_names
from pipeline.predictors import archive_predictor, score, url_predictor
from pipeline.report import Comparison
from project.model_folder import find_model
from tests.images import ARCHIVE, labelled_images
from tests.programs import run_program
from tests.torchserve.conftest import serving

PYTHON = Path(sys.executable)
ROWS: list[dict[str, Any]] = [
    {"instance": {"b64": picture}, "truth": label, "parameters": {"top_k": 1}}
    for picture, label in labelled_images(40)
]


@pytest.mark.parametrize(
    ("candidate", "serving", "passes", "reason"),
    [
        (0.97, None, True, "no model is serving yet"),
        (0.89, None, False, "below the minimum of 0.900"),
        (0.97, 0.96, True, "the serving model's is 0.960"),
        (0.95, 0.96, True, "within the tolerance of 0.010"),
        (0.949, 0.96, False, "exceeds the tolerance of 0.010"),
        (0.89, 0.5, False, "below the minimum of 0.900"),
    ],
)
def test_candidate_passes_unless_it_is_worse_or_below_the_minimum(
    candidate: float, serving: float | None, passes: bool, reason: str
) -> None:
    passed, message = check_score(candidate, serving, tolerance=0.01, min_score=0.9)
    assert passed is passes
    assert reason in message


def test_archive_and_url_with_the_same_model_predict_the_same() -> None:
    requests = build_requests(ROWS)
    predicted = archive_predictor(ARCHIVE, PYTHON)(requests)
    scores = score(Path("none.py"), PYTHON, predicted, [row["truth"] for row in ROWS])
    assert sum(scores) > 30
    assert {len(each["scores"]) for each in predicted} == {1}  # the parameters are passed on
    with serving(ARCHIVE) as endpoint:
        assert url_predictor(endpoint.url)(requests) == predicted


def test_requests_have_one_set_of_parameters_and_stay_below_the_limits_of_an_endpoint() -> None:
    large: list[dict[str, Any]] = [
        {"instance": "x" * (MAX_REQUEST_BYTES // 2 - 100), "truth": ""} for _ in range(5)
    ]
    many: list[dict[str, Any]] = [
        {"instance": index, "truth": "", "parameters": {"k": 1}} for index in range(100)
    ]
    requests = build_requests([*large, *many])
    assert [len(each["instances"]) for each in requests] == [2, 2, 1, 64, 36]
    assert [each["parameters"] for each in requests] == [{}] * 3 + [{"k": 1}] * 2
    instances = [instance for each in requests for instance in each["instances"]]
    assert instances == [row["instance"] for row in [*large, *many]]


def test_model_that_cannot_be_compared_with_is_an_error_with_a_hint(tmp_path: Path) -> None:
    requests = build_requests(ROWS[:3])
    with pytest.raises(EvaluationError, match="does not exist; pass an archive, a URL, or none"):
        archive_predictor(tmp_path / "none.mar", PYTHON)
    with zipfile.ZipFile(tmp_path / "stock.mar", "w") as stock:
        stock.writestr("MAR-INF/MANIFEST.json", "{}")
    with pytest.raises(EvaluationError, match="serve it and pass its URL"):
        archive_predictor(tmp_path / "stock.mar", PYTHON)
    with pytest.raises(EvaluationError, match=r"http://127\.0\.0\.1:9/: .*refused"):
        url_predictor("http://127.0.0.1:9/")(requests)
    with (
        zipfile.ZipFile(ARCHIVE) as source,
        zipfile.ZipFile(tmp_path / "broken.mar", "w") as broken,
    ):
        for name in source.namelist():
            if name != "labels.json":
                broken.writestr(name, source.read(name))
    with pytest.raises(EvaluationError, match=r"failed: .*FileNotFoundError: .*labels\.json"):
        archive_predictor(tmp_path / "broken.mar", PYTHON)(requests)


def test_score_is_that_of_the_models_own_program_or_whether_the_label_is_right(
    tmp_path: Path,
) -> None:
    program = tmp_path / "score.py"
    predictions = [{"label": "a"}, {"label": "b"}, "a", 3, {"boxes": [1]}]
    truths = ["a", "a", "a", 3, {"boxes": [1]}]
    assert score(program, PYTHON, predictions, truths) == [1, 0, 1, 1, 1]
    program.write_text(
        "from size import total\n"
        "def score(prediction, truth):\n    print('scored')\n    return prediction / total(truth)\n"
    )
    (tmp_path / "size.py").write_text("def total(truth):\n    return sum(truth)\n")
    assert score(program, PYTHON, [1, 3], [[2, 2], [4, 2]]) == [0.25, 0.5]
    with pytest.raises(EvaluationError, match=r"score\.py: expected scores from 0 to 1; got 2\.0"):
        score(program, PYTHON, [2], [[1]])
    with pytest.raises(EvaluationError, match=r"score\.py failed: ZeroDivisionError"):
        score(program, PYTHON, [2], [[]])


def test_invalid_held_out_instances_are_an_error_that_names_the_item(tmp_path: Path) -> None:
    file = tmp_path / "held-out.json"
    for content, reason in (
        ("[", "Expecting value"),
        ("[]", "no instances"),
        ('[{"instance": 1, "truth": 1}, {"instance": 1}]', "item 1 has no instance or no truth"),
    ):
        file.write_text(content)
        with pytest.raises(EvaluationError, match=reason):
            read_held_out(file)
    file.write_text(json.dumps(ROWS))
    assert read_held_out(file) == read_held_out(file, 400) == ROWS
    assert read_held_out(file, 10) == ROWS[::4]


def test_model_without_held_out_instances_passes_with_a_line_that_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.evaluate", "--out", str(tmp_path)]
    done = run_program(command)
    assert done.code == 0, done.err
    assert done.out.startswith("toy has no held-out.json: the candidate is not evaluated\n")
    content = json.loads((tmp_path / "report.json").read_text())
    assert (content["passed"], content["metrics"], content["confusion"]) == (True, {}, [])


def test_held_out_instances_of_the_folder_are_used_unless_training_wrote_others(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "toy"
    shutil.copytree(find_model("tests/toy").path, folder)
    (folder / "held-out.json").write_text(json.dumps(ROWS[:8]))
    (folder / "score.py").write_text("def score(prediction, truth):\n    return 0.5\n")
    command = [sys.executable, "-m", "pipeline.evaluate", "--serving", str(ARCHIVE)]
    command += ["--model", str(folder), "--out", str(tmp_path / "report"), "--min-score", "0.4"]
    env = {"MODEL_OUTPUT": str(tmp_path / "build")}
    shutil.copytree(ARCHIVE.parent, tmp_path / "build" / "toy")
    done = run_program(command, env)
    assert done.code == 0, done.err
    assert "score is 0.500, the serving model's is 0.500, within the tolerance" in done.out
    weights = tmp_path / "build" / "toy" / "weights"
    weights.mkdir()
    (weights / "held-out.json").write_text("[]")
    failed = run_program(command, env)
    assert failed.code == 1
    assert failed.err.startswith(f"pipeline.evaluate: {weights}/held-out.json: expected")


def test_report_has_scores_instances_that_got_worse_and_an_html_page(tmp_path: Path) -> None:
    rows = [{**row, "variant": "dark" if index < 20 else "light"} for index, row in enumerate(ROWS)]
    right = [{"label": row["truth"]} for row in rows]
    half = [each if index % 2 else {"label": "<7>"} for index, each in enumerate(right)]
    scores = {"candidate": [0.0, 1.0] * 20, "serving": [1.0] * 40}
    comparison = Comparison(rows, {"candidate": half, "serving": right}, scores)
    report.write_files(tmp_path, comparison, passed=False, message="worse & worse")
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["metrics"] == {
        "score": 0.5,
        "score_dark": 0.5,
        "score_light": 0.5,
        "serving_score": 1,
        "serving_score_dark": 1,
        "serving_score_light": 1,
    }
    assert (content["better"], content["worse"]) == (0, list(range(0, 40, 2)))
    assert sum(map(sum, content["confusion"])) == content["instances"] == 40
    assert content["labels"] == ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "<7>"]
    assert content["passed"] is False
    page = (tmp_path / "report.html").read_text()
    assert "worse &amp; worse" in page
    assert page.count("data:image/png;base64,") == 20
    assert "&lt;7&gt;" in page
    assert "<7>" not in page
    assert "better than the serving model: 0, worse: 20" in page


def test_predictions_other_than_labels_have_no_confusion_matrix(tmp_path: Path) -> None:
    rows = [{"instance": ["text" * 100], "truth": [0.5]}]
    comparison = Comparison(rows, {"candidate": [[0.25]]}, {"candidate": [0.75]})
    report.write_files(tmp_path, comparison, passed=True, message="m")
    content = json.loads((tmp_path / "report.json").read_text())
    assert (content["labels"], content["confusion"], content["worse"]) == ([], [], [0])
    page = (tmp_path / "report.html").read_text()
    assert "Score below 1: 1" in page
    assert "textte…" in page
    assert "Confusion" not in page


def test_old_option_names_work_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = replace_old_names(["--eval-pictures", "40", "--min-accuracy=0.5"])
    args = build_parser().parse_args(arguments)
    assert (args.eval_instances, args.min_score) == (40, 0.5)
    assert capsys.readouterr().err.splitlines() == [
        "warning: --eval-pictures is deprecated: use --eval-instances",
        "warning: --min-accuracy is deprecated: use --min-score",
    ]


def test_old_variable_for_the_programs_python_works_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PIPELINE_PYTHON", raising=False)
    monkeypatch.setenv("PROGRAMS", sys.executable)
    assert steps.run_program(find_model("tests/toy"), "platform", "--terse", quiet=True)
    assert "PROGRAMS is deprecated: use PIPELINE_PYTHON" in capsys.readouterr().out
