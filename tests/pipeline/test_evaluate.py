"""The evaluation: its pass criteria, the models it can compare with, its options and its report."""

import json
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from train.data import load_data
from train.evaluation import Sample
from train.writing import write_held_out

from pipeline import report, steps
from pipeline.errors import PredictionError
from pipeline.evaluate import MAX_REQUEST_BYTES, build_parser, check_accuracy, predict_labels
from pipeline.held_out import draw_held_out
from pipeline.options import replace_old_names
from pipeline.predictors import archive_predictor, folder_predictor, url_predictor
from pipeline.report import Comparison
from tests.functions.conftest import run_make
from tests.images import ARCHIVE, TOY


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """Return some held-out pictures in each variant."""
    return draw_held_out(load_data(None), 40)


@pytest.mark.parametrize(
    ("candidate", "serving", "passes", "reason"),
    [
        (0.97, None, True, "no model is serving yet"),
        (0.89, None, False, "below the minimum of 90.0%"),
        (0.97, 0.96, True, "the serving model's is 96.0%"),
        (0.95, 0.96, True, "within the tolerance of 1.0%"),
        (0.949, 0.96, False, "exceeds the tolerance of 1.0%"),
        (0.89, 0.5, False, "below the minimum of 90.0%"),
    ],
)
def test_candidate_passes_unless_it_is_worse_or_below_the_minimum(
    candidate: float, serving: float | None, passes: bool, reason: str
) -> None:
    passed, message = check_accuracy(candidate, serving, tolerance=0.01, min_accuracy=0.9)
    assert passed is passes
    assert reason in message


def test_folder_archive_and_url_with_the_same_model_predict_the_same(
    samples: list[Sample],
) -> None:
    folder = predict_labels(folder_predictor(TOY), samples)
    assert (
        sum(each.label == predicted for each, predicted in zip(samples, folder, strict=True)) > 30
    )
    assert predict_labels(archive_predictor(ARCHIVE), samples) == folder
    with run_make("digits") as endpoint:
        assert predict_labels(url_predictor(endpoint.url), samples) == folder


def test_requests_stay_below_the_size_limit_of_an_endpoint(samples: list[Sample]) -> None:
    noise = [Sample("noise", Image.effect_noise((400, 400), 90), "0") for _ in range(20)]
    sent: list[list[str]] = []

    def predict(requests: list[list[str]]) -> list[str]:
        sent.extend(requests)
        return ["0" for request in requests for _ in request]

    assert len(predict_labels(predict, [*samples, *noise])) == len(samples) + 20
    assert len(sent) > 2
    assert max(sum(map(len, request)) for request in sent) <= MAX_REQUEST_BYTES


def test_model_that_cannot_be_compared_with_is_an_error_with_a_hint(
    tmp_path: Path, samples: list[Sample]
) -> None:
    with pytest.raises(PredictionError, match="does not exist; pass an archive, a URL, or none"):
        archive_predictor(tmp_path / "none.mar")
    with zipfile.ZipFile(tmp_path / "stock.mar", "w") as stock:
        stock.writestr("MAR-INF/MANIFEST.json", "{}")
    with pytest.raises(PredictionError, match="serve it and pass its URL"):
        archive_predictor(tmp_path / "stock.mar")
    with pytest.raises(PredictionError, match=r"http://127\.0\.0\.1:9/: .*refused"):
        predict_labels(url_predictor("http://127.0.0.1:9/"), samples)
    with pytest.raises(PredictionError, match=r"failed: FileNotFoundError: .*model\.json"):
        predict_labels(folder_predictor(tmp_path), samples)


def test_weights_without_held_out_pictures_get_some(samples: list[Sample], tmp_path: Path) -> None:
    count = write_held_out(tmp_path, samples)
    files = {file.name for file in tmp_path.glob("*.png")}
    assert len(files) == count
    assert {name.split("-")[0] for name in files} == {each.label for each in samples}
    instances = json.loads((tmp_path / "instances.json").read_text())["instances"]
    assert len(instances) >= 10


def test_report_has_metrics_misread_pictures_and_an_html_page(
    samples: list[Sample], tmp_path: Path
) -> None:
    right = [each.label for each in samples]
    half = [label if index % 2 else "7" for index, label in enumerate(right)]
    labels = [str(digit) for digit in range(10)]
    comparison = Comparison(labels=labels, samples=samples, candidate=half, serving=right)
    report.write_files(tmp_path, comparison, passed=False, message="worse & worse")
    content = json.loads((tmp_path / "report.json").read_text())
    lost = sum(label != predicted for label, predicted in zip(right, half, strict=True))
    assert (content["only_candidate_right"], content["only_serving_right"]) == (0, lost)
    assert content["metrics"]["serving_accuracy"] == 1
    assert content["metrics"]["accuracy"] == pytest.approx(1 - lost / len(samples), abs=1e-4)
    assert sum(map(sum, content["confusion"])) == content["pictures"] == len(samples)
    assert content["passed"] is False
    with Image.open(tmp_path / "misread.png") as picture:
        assert min(picture.size) > 90
    page = (tmp_path / "report.html").read_text()
    assert "worse &amp; worse" in page
    assert page.count("data:image/png;base64,") == 1
    assert f"right only in the candidate: 0, only in the serving model: {lost}" in page


def test_old_option_names_work_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = replace_old_names(["--examined", "40", "--least=0.5"])
    args = build_parser().parse_args(arguments)
    assert (args.eval_pictures, args.min_accuracy) == (40, 0.5)
    assert capsys.readouterr().err.splitlines() == [
        "warning: --examined is deprecated: use --eval-pictures",
        "warning: --least is deprecated: use --min-accuracy",
    ]


def test_old_variable_for_the_programs_python_works_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PIPELINE_PYTHON", raising=False)
    monkeypatch.setenv("PROGRAMS", sys.executable)
    assert steps.run_program("platform", "--terse", quiet=True)
    assert "PROGRAMS is deprecated: use PIPELINE_PYTHON" in capsys.readouterr().out
