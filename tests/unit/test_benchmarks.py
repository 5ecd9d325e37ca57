"""The benchmarks' requests and results, the points of the scaling axes, and the workload of photographs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from benchmarks import answers, bare, load, results, scaling, servers, table, workloads
from benchmarks.__main__ import select_compared
from benchmarks.errors import BenchmarkError, StartError, WrkMissingError
from benchmarks.gpu import __main__ as gpu_benchmark
from benchmarks.gpu import measurement, ratios
from benchmarks.load import LoadResult
from benchmarks.peers import LOADED
from benchmarks.results import LoadProfile
from benchmarks.servers import ServerSpec
from benchmarks.workloads import Workload
from handler import envelope
from handler.batch import predict_batch
from project.model_folder import Model
from tests.images import ROOT


def rounds(*rates_per_s: float) -> list[LoadResult]:
    return [LoadResult(rate, 1000 / rate, 2000 / rate, 0) for rate in rates_per_s]


PROFILE = LoadProfile(8, 1)
RATES = {
    "bare limit": (400, 500, 2000),
    "ours": (300, 400, 450),
    "stock TorchServe": (40,),
    "FastAPI 2x1": (100, 200, 180),
    "Mosec 2x1": (200, 250, 300),
    "Mosec 1x2": (500,),
}
ROWS = [
    results.build_row("SMALL", name, PROFILE, rounds(*rates), is_compared=len(rates) > 1)
    for name, rates in RATES.items()
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the results file of a run."""
    return results.write_rows(ROWS, tmp_path)


def test_ratio_is_the_median_of_the_rounds_with_its_quartiles() -> None:
    ratio = results.compare(ROWS[1], ROWS[3])
    assert (ratio.median, ratio.low, ratio.high) == (2.5, 2.25, 2.75)
    assert str(ratio) == "2.50 (2.25 to 2.75)"


def test_ours_is_compared_with_the_bare_limit_and_the_best_peer_beyond_its_trial(
    run: Path,
) -> None:
    text = results.format_ratios(json.loads(run.read_text()))
    assert "| SMALL | 1.50 (1.50 to 1.55) |" in text
    assert "| SMALL | 0.75 (0.49 to 0.78) |" in text
    assert "SMALL: Mosec 2x1." in text
    assert results.describe_cpu() in text


def test_servers_without_results_are_reported_as_not_run(tmp_path: Path) -> None:
    text = results.write_rows(ROWS[1:2], tmp_path).with_suffix(".md").read_text()
    assert text.count("| SMALL | not run |") == 2


def test_second_request_path_of_the_image_has_its_own_line(tmp_path: Path) -> None:
    ours = ROWS[1]._replace(server="ours (torchserve)", rates_per_s=[100, 125, 150])
    text = results.write_rows([*ROWS, ours], tmp_path).with_suffix(".md").read_text()
    assert "| SMALL (torchserve) | 0.50 |" in text
    assert "| SMALL | 1.50" in text


def test_best_peers_without_failures_are_compared() -> None:
    failed = LoadResult(900, 1, 1, failed=1)
    trial = {name: rounds(rates[0]) for name, rates in RATES.items()} | {"BentoML 2x1": [failed]}
    assert select_compared(trial) == ["bare limit", "ours", "Mosec 1x2"]
    trial["Mosec 2x1"] = rounds(450)
    assert select_compared(trial) == ["bare limit", "ours", "Mosec 2x1", "Mosec 1x2"]


def test_failures_of_compared_servers_are_listed_and_their_file_is_not_published(
    tmp_path: Path,
) -> None:
    rows = [ROWS[1]._replace(failed=3), ROWS[2]._replace(failed=9), ROWS[4]]
    expected = "SMALL, 8 x 1: ours: 3 requests failed, 300.0 answers per second"
    assert results.find_failures(rows) == [expected]
    file = results.write_rows(rows, tmp_path)
    with pytest.raises(BenchmarkError, match="is not published: SMALL, 8 x 1: ours: 3 requests"):
        table.read_documents([file])


def test_table_is_written_between_the_marks_of_a_page(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{table.START}old\n{table.END}\nafter\n")
    newest = table.find_newest(tmp_path)
    assert newest == [run]
    text = results.format_ratios(table.read_documents(newest))
    for _ in range(2):
        table.write_table(page, text)
    assert page.read_text() == f"before\n{table.START}\n{text}\n\n{table.END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(BenchmarkError, match=r"README\.md has no lines <!--"):
        table.write_table(page, text)


def test_of_several_files_the_last_with_a_workload_counts(run: Path, tmp_path: Path) -> None:
    other = [row._replace(workload="TEXT") for row in ROWS]
    second = results.write_rows(other, tmp_path / "second")
    document = table.read_documents([run, second, run])
    assert [row["workload"] for row in document["rows"]] == ["SMALL"] * 6 + ["TEXT"] * 6


def test_pages_have_the_marks_of_the_table() -> None:
    for page in table.PAGES:
        assert table.START in page.read_text(), page
        assert table.END in page.read_text(), page


def test_readme_describes_every_key_of_the_results(run: Path) -> None:
    document = json.loads(run.read_text())
    page = (Path(results.__file__).parent / "README.md").read_text()
    assert set(document) == {"ended", "machine", "rows"}
    for key in document["rows"][0]:
        assert f"`.{key}`" in page


def test_predictions_may_differ_in_few_near_ties_only() -> None:
    expected = [[{"class": 1, "score": 0.5}]] * 40
    assert answers.find_error(expected, expected) == ""
    near = [[{"class": 1, "score": 0.51}]] * 38 + [[{"class": 2, "score": 0.5}]] * 2
    assert answers.find_error(near, expected) == ""
    wrong = [[{"class": 2, "score": 0.5}]] * 3 + expected[3:]
    assert answers.find_error(wrong, expected).startswith("3 of 40 predictions differ")
    assert "expected 1 predictions, got []" in answers.find_error([[]] * 40, expected)


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


def test_generated_instances_are_the_same_each_time_and_texts_differ_in_length() -> None:
    texts = workloads.generate_texts()
    assert texts == workloads.generate_texts()
    assert workloads.generate_rows() == workloads.generate_rows()
    lengths = sorted(len(text.split()) for text in texts)
    assert lengths[0] <= 2
    assert 12 <= lengths[len(lengths) // 2] <= 20
    assert lengths[-1] >= 128


def test_ceiling_and_peers_give_the_same_predictions_for_texts_of_any_length() -> None:
    task = bare.load(Path(workloads.__file__).with_name("text"))
    bodies = [{"instances": workloads.generate_texts()[:32]}]
    grouped, padded = (bare.predict(task, bodies, plans_passes=each) for each in (True, False))
    assert answers.find_error(padded, grouped) == ""


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
    workload = workloads.WORKLOADS["REAL"]()
    assert workload.round_s(LoadProfile(4, 16), 1) > 1
    measured = json.loads((workload.folder / "backend.json").read_text())
    forced = json.dumps(measured | {"backend": "scripted bfloat16"})
    (workload.model.weights / "backend.json").write_text(forced)
    workload = workloads.WORKLOADS["REAL"]()  # packs the archive again, with that backend
    assert (workload.folder / "backend.json").read_text() == forced
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


def test_fastest_layout_of_each_other_server_is_compared_on_a_gpu() -> None:
    rates = {
        "bare limit 1x16": 80,
        "bare limit 2x8": 90,
        "ours": 70,
        "ours 4x4": 75,
        "FastAPI 2x8": 20,
        "FastAPI 8x2": 30,
        "LitServe 2x8": 60,
        "LitServe 8x2": 50,
    }
    trials = {name: LoadResult(rate, 1, 1, 0) for name, rate in rates.items()}
    compared = measurement.select_compared(trials)
    assert set(rates) - set(compared) == {"FastAPI 2x8", "LitServe 8x2"}
    rows = [
        results.build_row("MINILM", name, LoadProfile(32, 1), [trial], is_compared=name in compared)
        for name, trial in trials.items()
    ]
    line = ratios.format_ratios(rows).splitlines()[-1]
    assert line == "| MINILM, 32 clients | 70 | 75 | 80 | 90 | 0.88 | 0.78 | 30 | 60 |"


def test_benchmark_on_a_gpu_names_the_packages_that_are_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(gpu_benchmark.PACKAGES, "LitServe", ("litserve_of_no_version",))
    gpu_benchmark.check_packages(["none"])
    with pytest.raises(BenchmarkError, match="litserve_of_no_version: run make gpu-packages"):
        gpu_benchmark.check_packages(["LitServe"])


def test_server_is_ready_when_all_of_its_processes_have_loaded_the_model(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(f"{LOADED}\n{LOADED}\nout of memory\n")
    with subprocess.Popen(["true"]) as process:
        process.wait()
        servers._wait_for_copies(2, process, log)
        with pytest.raises(StartError, match=r"2 of 3 .* ends with 'out of memory'"):
            servers._wait_for_copies(3, process, log)


def test_benchmark_on_a_gpu_says_that_torch_is_built_for_cpus() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "is built for CPUs: use a torch for GPUs, or measure with --device cpu" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.full
def test_workers_are_measured_without_java_on_a_simulated_device() -> None:
    options = "--only SIMULATED --device cpu --servers none --clients 1,4 --rounds 1 --seconds 1"
    command = [sys.executable, "-m", "benchmarks.gpu", *options.split()]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(Path(done.stdout.split()[-1]).read_text())["rows"]
    assert {row["server"].split()[0] for row in rows} == {"ours", "bare"}
    for row in rows:
        assert row["failed"] == 0
        # A pass of a sample takes 2.5 ms of the device.
        assert 0 < row["rates_per_s"][0] <= 400 * row["clients"]
