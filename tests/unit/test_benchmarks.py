"""The benchmarks' requests and results, the points of the scaling axes, and the workload of photographs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from benchmarks import bare, load, results, scaling, servers, workloads
from benchmarks.errors import BenchmarkError, WrkMissingError
from benchmarks.load import LoadResult
from benchmarks.results import LoadProfile
from benchmarks.servers import ServerSpec
from benchmarks.workloads import Workload
from handler import envelope
from handler.batch import predict_batch
from project.model_folder import Model


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


@pytest.fixture
def workload(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Workload:
    """Return the workload of the tests' model; its files are temporary."""
    monkeypatch.setattr(workloads, "BUILD", tmp_path)
    return workloads.select_workload("tests/toy")


def test_requests_are_those_of_the_model_that_is_selected(workload: Workload) -> None:
    rows = json.loads(Path("tests/toy/requests.json").read_text())
    bodies = [json.loads(line) for line in workload.write_bodies(1).read_text().splitlines()]
    assert workload.name == "toy"
    sent = [body["instances"] for body in bodies]
    assert all([row["instance"]] in sent for row in rows)
    assert len(sent) == len(workload.requests)
    assert (workload.folder / "model.py").is_file()


def test_parameters_of_a_request_are_sent_and_bodies_do_not_mix_them(workload: Workload) -> None:
    workload.requests = [
        {"instance": 1},
        {"instance": 2, "parameters": {"top_k": 5}},
        {"instance": 3, "parameters": {}},
    ]
    bodies = [json.loads(line) for line in workload.write_bodies(4).read_text().splitlines()]
    assert bodies == [
        {"instances": [1, 3, 1, 3]},
        {"instances": [2, 2, 2, 2], "parameters": {"top_k": 5}},
    ]
    assert workload.has_parameters


def test_archive_without_requests_is_rejected(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(workloads, "BUILD", tmp_path)
    model = Model(path=Path("tests/toy"), name="toy", output=tmp_path)
    workloads.Workload(model)
    model.requests.unlink()
    with pytest.raises(BenchmarkError, match=r"has no requests\.json, so there is nothing to send"):
        workloads.Workload(model)


def test_pixels_axis_has_pictures_only_if_the_instances_are_pictures(workload: Workload) -> None:
    points = scaling.picture_points(workload)
    assert [point.value for point in points][:2] == [28 * 21, 64 * 48]
    assert "b64" in json.loads(points[0].bodies.read_text())["instances"][0]
    for instance in (3, [1.0], {"text": "a"}, {"b64": "aGVsbG8="}):
        workload.requests = [{"instance": instance}]
        assert scaling.picture_points(workload) == []


def test_bare_loop_gives_the_predictions_of_the_handler(workload: Workload) -> None:
    bodies = [json.loads(line) for line in workload.write_bodies(2).read_text().splitlines()]
    task = bare.load(workload.folder)
    responses = predict_batch(task, [envelope.parse_document(body) for body in bodies])
    expected = [json.loads(response.body)["predictions"] for response in responses]
    assert bare.predict(task, bodies) == expected


@pytest.mark.full
@pytest.mark.parametrize("spec", [servers.our_spec(), servers.STOCK], ids=lambda spec: spec.name)
def test_server_gets_the_parameters_of_a_request(spec: ServerSpec, workload: Workload) -> None:
    workload.requests = [row | {"parameters": {"top_k": 1}} for row in workload.requests]
    body = load.first_body(workload.write_bodies(1))
    with servers.run_server(spec, workload) as server:
        server.resume()
        response = requests.post(server.url, body, timeout=60)
    (prediction,) = response.json()["predictions"]
    assert len(prediction["scores"]) == 1


# The model of the photographs has random weights, so that some of its scores are nearly equal.
PREDICT_WITH_NOISE = """
import pathlib, torch
from handler.comparison import find_differences
from handler.loading import load_model
torch.manual_seed(0)
folder = pathlib.Path()
outputs = {}
for backend in ("eager", "scripted bfloat16"):
    pathlib.Path("backend.json").write_text('{"backend": "%s"}' % backend)
    task = load_model(folder, torch.device("cpu"))
    sample = task.preprocess(task.examples[0].instance, {})
    with torch.inference_mode():
        outputs[backend] = task.inference(torch.stack([sample] * 2))[-1]
expected = task.postprocess(outputs["eager"], {})
noisy = [outputs["eager"] * (1 + 0.01 * torch.randn(1000)) for _ in range(20)]
for output in (outputs["scripted bfloat16"], *noisy):
    differences = find_differences(task.postprocess(output, {}), expected, tolerance=0.05)
    assert not differences, differences
"""


@pytest.mark.full
def test_photographs_pass_the_comparison_with_bfloat16_and_with_noise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(workloads, "BUILD", tmp_path)
    workload = workloads.load_photographs()
    assert workload.duration_factor > 1
    script = f"import sys; sys.path.insert(0, '.')\n{PREDICT_WITH_NOISE}"
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
