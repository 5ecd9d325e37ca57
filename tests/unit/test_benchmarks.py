"""The benchmarks' results, the points of the scaling axes, and the workload of photographs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import load, results, scaling, workloads
from benchmarks.errors import WrkMissingError
from benchmarks.load import LoadResult
from benchmarks.results import LoadProfile


def rounds(*rates_per_s: float) -> list[LoadResult]:
    return [LoadResult(rate, 1000 / rate, 2000 / rate, 0) for rate in rates_per_s]


ROWS = results.summarize(
    "SMALL",
    LoadProfile(8, 1),
    {
        "ceiling": rounds(400, 500, 2000),
        "ours": rounds(300, 400, 450),
        "stock TorchServe": rounds(50, 40, 45),
        "FastAPI 2x1": rounds(100, 200, 190),
        "FastAPI 1x2": rounds(500, 100, 150),
    },
)


def test_results_are_medians_of_the_rounds_with_their_spread() -> None:
    ours = ROWS[1]
    assert (ours.requests_per_s, ours.spread, ours.p50_ms) == (400, (300, 450), 2.5)


def test_ours_is_compared_with_the_ceiling_stock_torchserve_and_the_best_peer() -> None:
    (ratio,) = results.compute_ratios(ROWS)
    assert ratio["best_peer"] == "FastAPI 2x1"
    assert ratio["ours_over_best_peer"] == pytest.approx(400 / 190, abs=1e-3)
    assert ratio["ours_over_ceiling"] == pytest.approx(0.8)
    assert ratio["ours_over_stock"] == pytest.approx(400 / 45, abs=1e-3)


def test_servers_without_results_are_reported_as_not_run() -> None:
    (ratio,) = results.compute_ratios(ROWS[:2])
    assert ratio["best_peer"] == "no peer"
    assert "not run" in results.format_table(ROWS[:2])


def test_readme_describes_every_key_of_the_results(tmp_path: Path) -> None:
    file = results.write_rows(ROWS, tmp_path)
    document = json.loads(file.read_text())
    page = (Path(results.__file__).parent / "README.md").read_text()
    assert set(document) == {"ended", "machine", "rows", "ratios"}
    for key in document["rows"][0]:
        assert f"`.{key}`" in page
    for key in document["ratios"][0]:
        assert key in page or key in document["rows"][0]
    assert file.with_suffix(".md").read_text().count("\n") > len(ROWS)


def test_missing_wrk_raises_an_error_with_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(WrkMissingError, match=r"^wrk is not installed: apt-get install wrk"):
        load.run_wrk("http://127.0.0.1:1", Path("body.json"), 1, 1)


def test_refused_requests_do_not_count_as_answered() -> None:
    result = LoadResult(1000, 20, 60, failed=1800, refused=1500, duration_s=3)
    row = scaling.build_row("clients", 512, result)
    assert (row["offered_per_s"], row["answered_per_s"]) == (1000, 400)
    assert (row["refused_per_s"], row["failed_per_s"]) == (500, 100)
    assert (row["axis"], row["value"], row["p50_ms"], row["p99_ms"]) == ("clients", 512, 20, 60)


@pytest.mark.parametrize(
    ("peak_per_s", "max_clients"), [(160, 1921), (40_000, scaling.MAX_CLIENTS)]
)
def test_overload_offers_multiples_of_the_peak(
    peak_per_s: float, max_clients: int, tmp_path: Path
) -> None:
    points = scaling.overload_points(peak_per_s, tmp_path)
    factors = [point.rate_per_s / peak_per_s for point in points]
    assert factors == pytest.approx(scaling.OVERLOAD_FACTORS)
    assert max(point.clients for point in points) == max_clients


CHECK_WITH_NOISE = """
import pathlib, torch
from handler import comparison, golden
from model.task import load
torch.manual_seed(0)
for backend, size in (("scripted bfloat16", 4), ("eager", 1)):
    pathlib.Path("backend.json").write_text('{"backend": "%s"}' % backend)
    task = load(pathlib.Path(), torch.device("cpu"))
    pixels = task.preprocess(task.golden.instance)
    row = task.inference(torch.stack([pixels] * size))[-1]
    for _ in range(20):  # noise reorders classes with nearly equal scores
        noisy = row * (1 + 0.01 * torch.randn(row.shape))
        assert not comparison.find_differences(task.postprocess(noisy, {}), task.golden.expected)
"""


@pytest.mark.full
def test_photographs_pass_the_golden_request_with_bfloat16_and_with_other_backends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(workloads, "BUILD", tmp_path)
    weights = tmp_path / "REAL-weights"
    weights.mkdir()
    (weights / "backend.json").write_text('{"backend": "scripted bfloat16"}')
    workload = workloads.load_photographs_workload()
    assert json.loads((workload.folder / "backend.json").read_text())["backend"].endswith(
        "bfloat16"
    )
    script = f"import sys; sys.path.insert(0, '.')\n{CHECK_WITH_NOISE}"
    subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=workload.folder, check=True, timeout=300
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("benchmarks.tune", "--rounds", "0"), "--rounds: 0: expected a whole number of 1 or more"),
        (("benchmarks.scaling", "x", "--seconds", "0"), "--seconds: 0: expected a number above 0"),
        (("benchmarks.faults", "x", "--only", "none"), "--only: no fault's name contains none; "),
    ],
)
def test_wrong_option_ends_a_benchmark_before_it_starts(
    arguments: tuple[str, ...], reason: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert reason in done.stderr.splitlines()[-1]
