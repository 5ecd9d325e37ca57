"""Which candidate goes on: the rule, who can be compared with, and what the report says."""

import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from model.train.data import load
from model.train.evaluate import Shown
from model.train.write import write_held_out
from pipeline import report
from pipeline.evaluate import MOST_BYTES, answers, judge
from pipeline.held_out import held_out
from pipeline.predictors import PredictionError, of_archive, of_folder, of_url
from pipeline.report import Compared
from tests.functions.conftest import made
from tests.images import ARCHIVE, MODEL


@pytest.fixture(scope="module")
def shown() -> list[Shown]:
    """Return some held-out pictures in every way."""
    return held_out(load(None), 40)


@pytest.mark.parametrize(
    ("candidate", "serving", "passes", "why"),
    [
        (0.97, None, True, "nothing serves yet"),
        (0.89, None, False, "less than the 90.0% that it must"),
        (0.97, 0.96, True, "what serves now 96.0%"),
        (0.95, 0.96, True, "1.0% less would be tolerated"),
        (0.949, 0.96, False, "worse by more than the 1.0% that is tolerated"),
        (0.89, 0.5, False, "less than the 90.0% that it must"),
    ],
)
def test_a_candidate_goes_on_unless_it_is_worse_or_not_good_enough(
    candidate: float, serving: float | None, passes: bool, why: str
) -> None:
    judged, message = judge(candidate, serving, tolerance=0.01, least=0.9)
    assert judged is passes
    assert why in message


def test_a_folder_an_archive_and_a_url_with_the_same_model_say_the_same(
    shown: list[Shown],
) -> None:
    folder = answers(of_folder(MODEL), shown)
    assert sum(each.label == said for each, said in zip(shown, folder, strict=True)) > 30
    assert answers(of_archive(ARCHIVE), shown) == folder
    with made("digits") as endpoint:
        assert answers(of_url(endpoint.url), shown) == folder


def test_no_request_is_larger_than_an_endpoint_takes(shown: list[Shown]) -> None:
    noise = [Shown("noise", Image.effect_noise((400, 400), 90), "0") for _ in range(20)]
    asked: list[list[str]] = []

    def ask(requests: list[list[str]]) -> list[str]:
        asked.extend(requests)
        return ["0" for request in requests for _ in request]

    assert len(answers(ask, [*shown, *noise])) == len(shown) + 20
    assert len(asked) > 2
    assert max(sum(map(len, request)) for request in asked) <= MOST_BYTES


def test_what_cannot_be_compared_with_is_said(tmp_path: Path, shown: list[Shown]) -> None:
    with pytest.raises(PredictionError, match="does not exist: name an archive, a URL, or none"):
        of_archive(tmp_path / "none.mar")
    with zipfile.ZipFile(tmp_path / "stock.mar", "w") as stock:
        stock.writestr("MAR-INF/MANIFEST.json", "{}")
    with pytest.raises(PredictionError, match="serve it, and name its URL instead"):
        of_archive(tmp_path / "stock.mar")
    with pytest.raises(PredictionError, match=r"http://127\.0\.0\.1:9/: .*refused"):
        answers(of_url("http://127.0.0.1:9/"), shown)
    with pytest.raises(PredictionError, match=r"does not answer: FileNotFoundError: .*model\.json"):
        answers(of_folder(tmp_path), shown)


def test_weights_that_came_without_pictures_get_the_held_out_ones(
    shown: list[Shown], tmp_path: Path
) -> None:
    count = write_held_out(tmp_path, shown)
    files = {file.name for file in tmp_path.glob("*.png")}
    assert len(files) == count
    assert {name.split("-")[0] for name in files} == {each.label for each in shown}
    instances = json.loads((tmp_path / "instances.json").read_text())["instances"]
    assert len(instances) >= 10


def test_the_report_has_the_numbers_the_pictures_and_the_page(
    shown: list[Shown], tmp_path: Path
) -> None:
    right = [each.label for each in shown]
    half = [label if index % 2 else "7" for index, label in enumerate(right)]
    compared = Compared([str(digit) for digit in range(10)], shown, half, right)
    report.write(tmp_path, compared, passes=False, message="worse & worse")
    found = json.loads((tmp_path / "report.json").read_text())
    lost = sum(label != said for label, said in zip(right, half, strict=True))
    assert (found["only_candidate_right"], found["only_serving_right"]) == (0, lost)
    assert found["metrics"]["serving_accuracy"] == 1
    assert found["metrics"]["accuracy"] == pytest.approx(1 - lost / len(shown), abs=1e-4)
    assert sum(map(sum, found["confusion"])) == found["pictures"] == len(shown)
    assert found["passes"] is False
    with Image.open(tmp_path / "misread.png") as picture:
        assert min(picture.size) > 90
    page = (tmp_path / "report.html").read_text()
    assert "worse &amp; worse" in page
    assert page.count("data:image/png;base64,") == 1
    assert f"0 only the candidate read right, {lost} only what serves" in page
