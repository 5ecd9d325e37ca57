"""`make tune` finds the best layout, and the server uses it on machines with the same number of cores."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tune
from benchmarks.errors import BenchmarkError
from benchmarks.load import LoadResult, warm_up
from benchmarks.tune import Objective, Tuner
from serving import artifact, local, model_config, resources
from serving.artifact import Artifact
from serving.errors import ArchiveError
from serving.gpu import Gpu
from serving.ignored_settings import describe_ignored_settings
from serving.layout import Layout, Machine, choose_layout, read_machine
from serving.stock import manifest
from serving.torchserve_config import TorchServeConfig

TUNED = Layout(workers=3, threads=2, batch_size=16, batch_delay_ms=5)
GIB = 1 << 30


L4, T4 = Gpu("NVIDIA L4", 22 * GIB), Gpu("Tesla T4", 15 * GIB)
LARGE = 64 * GIB


@pytest.mark.parametrize("gpus", [[], [L4], [L4, L4], [L4, T4]])
def test_tuned_layout_is_used_on_the_same_number_of_cores_and_the_same_gpus(
    gpus: list[Gpu],
) -> None:
    machine = Machine(6, LARGE, gpus)
    text = model_config.render(TUNED, machine, {"requests_per_s": 1.5})
    expected = TUNED._replace(source="model-config.yaml")
    assert model_config.resolve_layout(text, machine, 0) == expected


TEXT = model_config.render(TUNED, Machine(6, LARGE), {})
GPU_TEXT = model_config.render(TUNED, Machine(6, LARGE, [L4]), {})


@pytest.mark.parametrize(
    ("text", "machine", "reason"),
    [
        (TEXT, Machine(2, LARGE), "default, model-config.yaml is for 6 cores"),
        (TEXT, Machine(6, GIB), "default, model-config.yaml needs more memory"),
        (None, Machine(4, LARGE), "default"),
        (TEXT, Machine(6, LARGE, [L4]), "model-config.yaml is for 6 cores and no GPU"),
        (GPU_TEXT, Machine(6, LARGE), "is for 6 cores and 1 GPU (NVIDIA L4)"),
        (GPU_TEXT, Machine(6, LARGE, [T4]), "is for 6 cores and 1 GPU (NVIDIA L4)"),
        (GPU_TEXT, Machine(6, LARGE, [L4, L4]), "is for 6 cores and 1 GPU (NVIDIA L4)"),
        (GPU_TEXT, Machine(6, 4 * GIB, [L4]), "model-config.yaml needs more memory"),
        (GPU_TEXT, Machine(6, LARGE, [L4._replace(memory_bytes=4 * GIB)]), "needs more memory"),
        (None, Machine(4, LARGE, [L4]), "default for 1 GPU (NVIDIA L4)"),
    ],
)
def test_layout_that_does_not_fit_the_machine_is_replaced_by_the_default_with_a_reason(
    text: str | None, machine: Machine, reason: str
) -> None:
    chosen = model_config.resolve_layout(text, machine, 0)
    assert chosen[:4] == choose_layout(machine)[:4]
    assert chosen.source.endswith(reason)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", r"^model-config\.yaml:1: not YAML: expected the node content, but .*$"),
        ("- 1", "expected a mapping"),
        ("minWorkers: 0", "minWorkers: expected an integer of at least 1, got 0"),
        (
            "{minWorkers: 1, batchSize: true}",
            "batchSize: expected an integer of at least 1, got True",
        ),
        (
            "{minWorkers: 1, batchSize: 1, maxBatchDelay: -1}",
            "maxBatchDelay: expected an integer of at least 0",
        ),
        ("{minWorkers: 1, batchSize: 1, maxBatchDelay: 0, threads: 1}", "cores: expected"),
        (f"{TEXT}\ngpus: 1", "gpu: expected the name of a GPU, got None"),
        (f"{TEXT}\ngpu: NVIDIA L4", "gpus: expected an integer of at least 1, got None"),
    ],
)
def test_invalid_model_config_raises_an_error_that_names_the_key(text: str, reason: str) -> None:
    with pytest.raises(model_config.ModelConfigError, match=reason):
        model_config.parse(text)


@pytest.mark.parametrize(
    ("text", "layout", "timeout_s"),
    [
        ("maxBatchDelay: 20\nresponseTimeout: 7\n", {"batch_delay_ms": 20}, 7),
        ("batchSize: 4\nhandler: {a: 1}\n", {"batch_size": 4}, None),
    ],
)
def test_keys_of_an_author_are_followed_on_every_machine(
    text: str, layout: dict[str, Any], timeout_s: int | None
) -> None:
    for machine in (Machine(3, LARGE), Machine(3, LARGE, [L4])):
        default = choose_layout(machine)
        assert model_config.resolve_layout(text, machine, 0) == default._replace(**layout)
    assert model_config.read_response_timeout(text) == timeout_s


@pytest.mark.parametrize("text", ["responseTimeout: 0", "responseTimeout: soon"])
def test_invalid_time_for_a_response_is_an_error(text: str) -> None:
    with pytest.raises(model_config.ModelConfigError, match="responseTimeout: expected an integer"):
        model_config.read_response_timeout(text)


def test_archive_is_served_with_the_layout_that_it_contains(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    config = tmp_path / model_config.CONFIG
    settings = TorchServeConfig(
        archive=tmp_path, run_dir=tmp_path, layout=Layout(1, 1), address="http://127.0.0.1:1"
    )
    config.write_text(model_config.render(TUNED, read_machine(), {}))
    unlimited = artifact.apply_model_config(settings, Artifact(tmp_path, None)).layout
    assert unlimited[:4] == TUNED[:4] or "memory" in unlimited.source
    config.write_text("minWorkers: none")
    with pytest.raises(ArchiveError, match="minWorkers"):
        artifact.apply_model_config(settings, Artifact(tmp_path, None))


def test_layout_option_is_parsed() -> None:
    assert local.parse_layout("3x2,16,5")[:4] == TUNED[:4]
    assert local.parse_layout("2x1") == Layout(2, 1, source="--layout")
    with pytest.raises(argparse.ArgumentTypeError, match="expected WORKERSxTHREADS"):
        local.parse_layout("0x1")


@pytest.mark.parametrize(
    ("cores", "max_workers", "expected"),
    [
        (1, 1, [(1, 1)]),
        (2, 2, [(2, 1), (1, 2), (2, 2)]),
        (8, 8, [(8, 1), (4, 2), (2, 4), (1, 8), (8, 8)]),
        (6, 6, [(6, 1), (3, 2), (1, 4), (6, 4)]),
        (4, 1, [(1, 4), (1, 2), (1, 1)]),
    ],
)
def test_all_pairs_of_workers_and_threads_that_fit_are_tried(
    cores: int, max_workers: int, expected: list[tuple[int, int]]
) -> None:
    assert tune.worker_thread_pairs(cores, max_workers) == expected


@pytest.mark.parametrize(
    ("machine", "model_bytes", "expected"),
    [
        (Machine(8, LARGE, [L4]), 0, [(1, 8), (2, 4), (3, 2), (4, 2)]),
        (Machine(8, LARGE, [L4, L4]), 0, [(2, 4), (4, 2), (6, 1), (8, 1)]),
        (Machine(2, LARGE, [L4]), 4 * GIB, [(1, 2), (2, 1)]),  # twice 9.5 GiB fit into 22
        (Machine(4, 6 * GIB, [L4]), 0, [(1, 4), (2, 2)]),
        (Machine(4, 3 * GIB, [L4, L4]), 0, [(1, 4)]),
        (Machine(8, LARGE), 0, [(8, 1), (4, 2), (2, 4), (1, 8), (8, 8)]),
    ],
)
def test_workers_of_each_gpu_that_fit_are_tried(
    machine: Machine, model_bytes: int, expected: list[tuple[int, int]]
) -> None:
    assert tune.list_candidates(machine, model_bytes) == expected


def test_each_of_the_two_servers_has_half_of_a_machine_with_a_gpu() -> None:
    half = tune.halve_memory(Machine(8, LARGE, [L4, T4]))
    assert (half.memory_bytes, [gpu.memory_bytes >> 20 for gpu in half.gpus]) == (
        LARGE // 2,
        [11 << 10, 15 << 9],
    )
    with pytest.raises(BenchmarkError, match="with half of the GPU each: the files of the model"):
        tune.choose_initial(half, 0, 9 * GIB)
    assert tune.halve_memory(Machine(8, LARGE)) == Machine(8, LARGE)


def load(
    requests_per_s: float = 100, p50_ms: float = 10, p99_ms: float = 20, failed: int = 0
) -> LoadResult:
    return LoadResult(requests_per_s, p50_ms, p99_ms, failed)


NO_ANSWERS = load(0, 0, 0)


THROUGHPUT, LATENCY = Objective(32, 50, latency=False), Objective(1, 50, latency=True)


@pytest.mark.parametrize(
    ("objective", "candidate", "best", "better"),
    [
        (THROUGHPUT, load(110), load(100), True),
        (THROUGHPUT, load(101), load(100), False),
        (THROUGHPUT, load(200, p99_ms=51), load(100, p99_ms=49), False),
        (THROUGHPUT, load(50, p99_ms=49), load(100, p99_ms=51), True),
        (THROUGHPUT, load(50, p99_ms=60), load(100, p99_ms=80), True),
        (LATENCY, load(p50_ms=9), load(p50_ms=10), True),
        (LATENCY, load(1000, p50_ms=10), load(p50_ms=10), False),
        (THROUGHPUT, NO_ANSWERS, load(), False),
        (THROUGHPUT, load(1), NO_ANSWERS, True),
        (THROUGHPUT, NO_ANSWERS, NO_ANSWERS, False),
        (THROUGHPUT, load(200, failed=1), load(), False),
        (LATENCY, NO_ANSWERS, load(), False),
    ],
)
def test_throughput_counts_within_the_p99_limit_and_latency_is_the_median(
    objective: Objective, candidate: LoadResult, best: LoadResult, better: bool
) -> None:
    assert objective.is_better(candidate, best) is better


def simulate_slow(rate_per_s: float, passes: list[float]) -> Callable[[float], LoadResult]:
    """Return a load on a server that answers once a second or less, in whole batches of four requests."""

    def run(seconds: float) -> LoadResult:
        passes.append(seconds)
        answers = int(seconds * rate_per_s) // 4 * 4
        return LoadResult(answers / seconds, 1000, 1000, 0, duration_s=seconds)

    return run


@pytest.mark.parametrize(
    ("rate_per_s", "warm_ups", "round_s"),
    [(1000, [2], 2), (8, [2], 8), (1, [2, 4], 30), (0.1, [2, 4, 8, 16, 30], 30)],
)
def test_round_of_a_slow_model_is_long_enough_for_answers(
    rate_per_s: float, warm_ups: list[float], round_s: float
) -> None:
    passes: list[float] = []
    _, seconds = warm_up(simulate_slow(rate_per_s, passes), clients=32, min_seconds=2)
    assert (passes, seconds) == (warm_ups, round_s)


def test_layout_without_answers_ends_its_comparison_and_is_not_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tune", "--out", str(tmp_path / "config.yaml")])
    monkeypatch.setattr(tune, "measure_side_by_side", lambda *_, **__: [[NO_ANSWERS]] * 2)
    with pytest.raises(SystemExit, match="no layout answered every request: no answers"):
        tune.main()
    assert not (tmp_path / "config.yaml").exists()
    assert "no answers   compared with" in capsys.readouterr().out


def simulate(layout: Layout) -> LoadResult:
    """Return a result that is best with 1 x 2, batches of 8 and a delay of 5 ms."""
    speed = {1: 1.0, 2: 2.0}[layout.threads]
    for value, best in ((layout.batch_size, 8), (layout.batch_delay_ms or 1, 5)):
        speed /= 1 + abs(value - best) / best
    return load(1000 * speed, p50_ms=10 / layout.threads)


@pytest.mark.parametrize(
    ("objective", "best", "comparisons"),
    [(THROUGHPUT, Layout(1, 2, 8, 5), 8), (LATENCY, Layout(1, 2), 2)],
    ids=["throughput: all parameters", "latency: only workers and threads"],
)
def test_search_finds_the_best_layout(objective: Objective, best: Layout, comparisons: int) -> None:
    measured: list[Layout] = []

    def measure(current: Layout, candidate: Layout) -> list[list[LoadResult]]:
        measured.append(candidate)
        return [[simulate(current)] * 3, [simulate(candidate)] * 3]

    tuner = Tuner(Layout(2, 1), objective, measure)
    tune.search(tuner, tune.worker_thread_pairs(2, 2), tune.BATCH_DELAYS_MS)
    assert (tuner.best[:4], len(measured)) == (best[:4], comparisons)


def test_layout_of_a_gpu_is_written_with_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(*layouts: Layout, **_: object) -> list[list[LoadResult]]:
        """Simulate a GPU that is fastest with three workers, batches of 128 and a delay of 2 ms."""
        costs = [
            (1 + abs(each.workers - 3))
            * (1 + abs(each.batch_size - 128) / 128)
            * (1 + abs(each.batch_delay_ms - 2))
            for each in layouts
        ]
        return [[load(1000 / cost)] * 3 for cost in costs]

    monkeypatch.setattr(local, "find_gpus", lambda _: [L4])
    monkeypatch.setattr(resources, "cores", lambda: 6)
    monkeypatch.setattr(resources, "memory_limit", lambda: LARGE)
    monkeypatch.setattr(tune, "measure_side_by_side", measure)
    monkeypatch.setattr(sys, "argv", ["tune", "--out", str(tmp_path / "config.yaml")])
    tune.main()
    text = (tmp_path / "config.yaml").read_text()
    tuned = model_config.parse(text)
    assert tuned == (Layout(3, 2, 128, 2, "model-config.yaml"), 6, 1, "NVIDIA L4")
    machine = "6 cores and 1 GPU (NVIDIA L4)"
    assert f"used on machines with {machine}." in text
    output = capsys.readouterr().out
    assert f": {machine}; initial layout: 2 workers x 3 threads" in output
    assert f"config.yaml for machines with {machine};" in output


@pytest.mark.parametrize(
    ("text", "workers"),
    [
        (b"minWorkers: 3\nmaxWorkers: 4", (3, 2)),
        (b"minWorkers: 3", (6, 1)),
        (b"minWorkers: 3\nmaxWorkers: 2", (6, 1)),
        (b"minWorkers: none\nmaxWorkers: 2", (6, 1)),
        (b"", (6, 1)),
        (None, (6, 1)),
    ],
)
def test_workers_of_a_stock_archive_are_those_that_torchserve_starts(
    text: bytes | None, workers: tuple[int, int]
) -> None:
    layout, _ = model_config.resolve_stock_settings(text, Layout(6, 1))
    assert (layout.workers, layout.threads) == workers


@pytest.mark.parametrize(
    ("text", "layout", "gpus"),
    [
        ("", Layout(2, 2, 1, source="default for 1 GPU (NVIDIA L4)"), [L4]),
        ("batchSize: 8\nmaxBatchDelay: 9\nminWorkers: 1\nmaxWorkers: 1", (1, 4, 8, 9), [L4]),
        ("deviceType: cpu", (4, 1, 1, 0, "default for the CPU, its deviceType"), ()),
    ],
)
def test_settings_of_a_stock_archive_are_followed_on_a_gpu(
    text: str,
    layout: tuple[int, ...],
    gpus: Sequence[Gpu],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resources, "cores", lambda: 4)
    monkeypatch.setattr(resources, "memory_limit", lambda: LARGE)
    model = {"modelName": "m", "handler": "h.py", "configFile": "own.yaml"}
    (tmp_path / "MAR-INF").mkdir()
    (tmp_path / manifest.MANIFEST).write_text(json.dumps({"model": model}))
    (tmp_path / "own.yaml").write_text(text)
    served = Artifact(tmp_path, None, stock=True)
    config = local.configure(served, "http://127.0.0.1:1", tmp_path, [L4])
    assert config.layout[: len(layout)] == layout
    assert config.gpus == gpus


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: é # one\r\n", "a: é\nresponseTimeout: 3610\nstartupTimeout: 600\n"),
        ("startupTimeout: 9\nresponseTimeout: 8\n", "responseTimeout: 8\nstartupTimeout: 9\n"),
        ("{a: 1}\n", "a: 1\nresponseTimeout: 3610\nstartupTimeout: 600\n"),
        ("a: [", "a: ["),
    ],
)
def test_stock_archive_with_a_configuration_gets_the_time_to_load_and_to_answer(
    tmp_path: Path, text: str, expected: str
) -> None:
    model = {"modelName": "m", "handler": "h.py", "configFile": "own.yaml"}
    (tmp_path / "MAR-INF").mkdir()
    (tmp_path / manifest.MANIFEST).write_text(json.dumps({"model": model}))
    (tmp_path / "own.yaml").write_bytes(text.encode("utf-16"))
    manifest.adapt(tmp_path, "m")
    assert (tmp_path / "own.yaml").read_text("utf-8") == expected
    if "3610" in expected:  # the archive's own value rules, then RESPONSE_TIMEOUT_S
        _, timeout_s = model_config.resolve_stock_settings(expected.encode(), Layout(1, 1))
        assert timeout_s is None


def test_settings_that_are_not_followed_get_a_line_each(tmp_path: Path) -> None:
    model = {"modelName": "m", "handler": "h.py", "configFile": "own.yaml"}
    text = (
        "batchSize: 4\nmaxBatchDelay: 30\nresponseTimeout: soon\njobQueueSize: 9\nhandler: {a: 1}\n"
    )
    (tmp_path / "MAR-INF").mkdir()
    (tmp_path / manifest.MANIFEST).write_text(json.dumps({"model": model}))
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "own.yaml").write_text(text.replace("\n", "\r\n"), encoding, newline="")
        served = Artifact(tmp_path, None, stock=True)
        environ = {"TS_MAX_REQUEST_SIZE": "1", "TS_JVM": "x", "HOME": "/"}
        lines = list(describe_ignored_settings(served, environ))
        assert [line.partition(" is not followed")[0] for line in lines] == [
            *("TS_JVM", "TS_MAX_REQUEST_SIZE"),
            *("model-config.yaml: jobQueueSize", "model-config.yaml: responseTimeout"),
        ]
        assert lines[1].endswith("; use MAX_REQUEST_BYTES")
        config = local.configure(served, "http://127.0.0.1:1", tmp_path)
        assert (config.layout.batch_size, config.layout.batch_delay_ms) == (4, 30)
        assert config.response_timeout_s == 50
