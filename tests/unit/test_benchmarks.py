"""The benchmarks: results, points of the scaling axes, and the workload of photographs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import load, results, scaling, workloads
from benchmarks.load import Load, WrkMissingError
from benchmarks.results import Cell


def loads(*rates: float) -> list[Load]:
    return [Load(rate, 1000 / rate, 2000 / rate, 0) for rate in rates]


ROWS = results.rows(
    "SMALL",
    Cell(8, 1),
    {
        "bare limit": loads(400, 500, 2000),
        "ours": loads(300, 400, 450),
        "stock TorchServe": loads(50, 40, 45),
        "FastAPI 2x1": loads(100, 200, 190),
        "FastAPI 1x2": loads(500, 100, 150),
    },
)


def test_results_are_medians_of_the_rounds_with_their_spread() -> None:
    ours = ROWS[1]
    assert (ours.requests_s, ours.spread, ours.p50_ms) == (400, (300, 450), 2.5)


def test_ours_is_compared_with_the_limit_the_stock_and_the_best_peer() -> None:
    (ratio,) = results.ratios(ROWS)
    assert ratio["best_peer"] == "FastAPI 2x1"
    assert ratio["ours_over_best_peer"] == pytest.approx(400 / 190, abs=1e-3)
    assert ratio["ours_over_limit"] == pytest.approx(0.8)
    assert ratio["ours_over_stock"] == pytest.approx(400 / 45, abs=1e-3)


def test_a_contestant_that_did_not_run_is_named_as_such() -> None:
    (ratio,) = results.ratios(ROWS[:2])
    assert ratio["best_peer"] == "no peer"
    assert "not run" in results.table(ROWS[:2])


def test_every_key_of_the_file_is_explained(tmp_path: Path) -> None:
    file = results.write(ROWS, tmp_path)
    document = json.loads(file.read_text())
    page = (Path(results.__file__).parent / "README.md").read_text()
    assert set(document) == {"ended", "machine", "rows", "ratios"}
    for key in document["rows"][0]:
        assert f"`.{key}`" in page
    for key in document["ratios"][0]:
        assert key in page or key in document["rows"][0]
    assert file.with_suffix(".md").read_text().count("\n") > len(ROWS)


def test_without_wrk_one_line_tells_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(WrkMissingError, match=r"^wrk is not installed: apt-get install wrk"):
        load.press("http://127.0.0.1:1", Path("body.json"), 1, 1)


def test_a_refusal_is_not_an_answer() -> None:
    row = scaling.row("clients", 512, Load(1000, 20, 60, failed=1800, refused=1500, seconds=3))
    assert (row["offered_s"], row["answered_s"]) == (1000, 400)
    assert (row["refused_s"], row["failed_s"]) == (500, 100)
    assert (row["axis"], row["value"], row["p50_ms"], row["p99_ms"]) == ("clients", 512, 20, 60)


@pytest.mark.parametrize(("peak_s", "most"), [(160, 1921), (40_000, scaling.MAX_CLIENTS)])
def test_overload_offers_multiples_of_the_peak(peak_s: float, most: int, tmp_path: Path) -> None:
    points = scaling.overload(peak_s, tmp_path)
    assert [each.rate_s / peak_s for each in points] == pytest.approx(scaling.RATES)
    assert max(each.clients for each in points) == most


GOLDEN_WITH_NOISE = """
import pathlib, torch
from handler import golden
from model.task import load
torch.manual_seed(0)
for choice, size in (("scripted bfloat16", 4), ("eager", 1)):
    pathlib.Path("backend.json").write_text('{"backend": "%s"}' % choice)
    task = load(pathlib.Path(), torch.device("cpu"))
    pixels = task.preprocess(task.golden.instance)
    row = task.inference(torch.stack([pixels] * size))[-1]
    for _ in range(20):  # near ties rank otherwise in some of these
        noisy = row * (1 + 0.01 * torch.randn(row.shape))
        assert golden.matches(task.postprocess(noisy, {}), task.golden.expected)
"""


@pytest.mark.full
def test_the_photographs_can_be_packed_with_bfloat16_and_any_backend_answers_the_golden_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(workloads, "BUILD", tmp_path)
    weights = tmp_path / "REAL-weights"
    weights.mkdir()
    (weights / "backend.json").write_text('{"backend": "scripted bfloat16"}')
    workload = workloads.real()
    assert json.loads((workload.folder / "backend.json").read_text())["backend"].endswith(
        "bfloat16"
    )
    program = f"import sys; sys.path.insert(0, '.')\n{GOLDEN_WITH_NOISE}"
    subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=workload.folder, check=True, timeout=300
    )
