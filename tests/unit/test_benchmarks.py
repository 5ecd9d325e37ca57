"""A benchmark's results: medians, and ratios that name whom they compare with."""

import datetime
import json
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.load import Load
from benchmarks.results import Cell


def loads(*rates: float) -> list[Load]:
    return [Load(rate, 1000 / rate, 2000 / rate, 0) for rate in rates]


ROWS = results.rows(
    "SMALL",
    Cell(8, 1),
    {
        "bare limit": loads(400, 500, 2000),
        "ours": loads(300, 400, 450),
        "stock TorchServe 2x2": loads(50, 40, 45),
        "FastAPI 2x1": loads(100, 200, 190),
        "FastAPI 1x2": loads(500, 100, 150),
    },
)


def test_medians_of_the_rounds_are_quoted_with_their_spread() -> None:
    ours = ROWS[1]
    assert (ours.requests_s, ours.spread, ours.p50_ms) == (400, (300, 450), 2.5)


def test_ours_is_compared_with_the_limit_the_stock_and_the_best_peer() -> None:
    (ratio,) = results.ratios(ROWS)
    assert ratio["best_peer"] == "FastAPI 2x1"
    assert ratio["ours_over_best_peer"] == pytest.approx(400 / 190, abs=1e-3)
    assert ratio["ours_over_limit"] == pytest.approx(0.8)
    assert ratio["ours_over_stock"] == pytest.approx(400 / 45, abs=1e-3)


def test_a_contestant_that_did_not_run_is_said_so() -> None:
    (ratio,) = results.ratios(ROWS[:2])
    assert ratio["best_peer"] is None
    assert "not run" in results.table(ROWS[:2])


def test_every_key_of_the_file_is_explained(tmp_path: Path) -> None:
    ended = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    document = json.loads(results.write(ROWS, ended, tmp_path).read_text())
    page = (Path(results.__file__).parent / "README.md").read_text()
    assert set(document) == {"ended", "machine", "rows", "ratios"}
    for key in document["rows"][0]:
        assert f"`.{key}`" in page
    for key in document["ratios"][0]:
        assert key in page or key in document["rows"][0]
    assert (tmp_path / "run-20260102-030405.md").read_text().count("\n") > len(ROWS)
