"""`make serve`, `make predict` and the Makefile: output, errors, and the processes they end."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.torchserve import find_free_port
from tests.http import wait_for
from tests.images import REQUESTS, ROOT, TOY, draw_seven
from tests.programs import run_program
from tests.torchserve.conftest import LocalServer, program, run
from tests.wheels import write_wheel

PYTHON = sys.executable


@pytest.fixture(scope="module")
def served() -> Iterator[LocalServer]:
    local = LocalServer("--port", str(find_free_port()))
    try:
        local.read_until("Press Ctrl-C to stop.")
        yield local
    finally:
        if local.process.poll() is None:
            local.stop(signal.SIGINT)


# These tests share one server and run in one worker; the last one stops it.
shared = pytest.mark.xdist_group("make")


@shared
def test_serve_prints_its_java_and_a_working_curl_command(served: LocalServer) -> None:
    assert re.search(r"^Java \d+ from .+: /", served.output, re.MULTILINE)
    (line,) = re.findall(r"^ +(curl .*)$", served.output, re.MULTILINE)
    done = run(*shlex.split(line), "--silent", "--max-time", "30")
    assert '"predictions":[{"label":' in done.stdout, done.stderr


def url(served: LocalServer) -> str:
    (found,) = re.findall(r"URL=(\S+)", served.output)
    return str(found)


@shared
def test_predict_prints_image_label_scores_and_latency(
    served: LocalServer,
) -> None:
    done = program("serving.predict", "--url", url(served))
    assert done.returncode == 0, done.stderr
    assert "█" in done.stdout
    assert re.search(r"^label: \d$", done.stdout, re.MULTILINE)
    assert re.search(r"^  \d +\d+\.\d%  █", done.stdout, re.MULTILINE)
    assert re.search(r"^\d+\.\d ms$", done.stdout, re.MULTILINE)


@shared
def test_predict_accepts_an_image_file(served: LocalServer, tmp_path: Path) -> None:
    path = tmp_path / "seven.png"
    draw_seven().save(path)
    done = program("serving.predict", "--url", url(served), "--picture", str(path))
    assert "label: 9\n" in done.stdout, done.stderr


@shared
def test_predict_prints_the_servers_error(served: LocalServer) -> None:
    done = program("serving.predict", "--url", url(served).replace("toy", "letters"))
    assert done.returncode == 1
    assert "responded with 404: " in done.stderr


def test_predict_without_a_server_prints_how_to_start_it(tmp_path: Path) -> None:
    done = program("serving.predict", "--url", f"http://127.0.0.1:{find_free_port()}/x")
    assert done.returncode == 1
    assert "Start it with: make serve" in done.stderr
    for option in ("--picture", "--request"):
        missing = program("serving.predict", option, str(tmp_path / "none"))
        assert "none: No such file" in missing.stderr


def test_port_in_use_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = program("serving.local", "--port", port)
    assert done.returncode == 1
    assert f"cannot listen on port {port} of 127.0.0.1: Address already in use" in done.stderr


def test_missing_archive_is_reported() -> None:
    done = program("serving.local", "--archive", "build/none.mar")
    assert done.returncode == 1
    assert "build/none.mar does not exist; run: make archive" in done.stderr


@shared
def test_readmes_request_gets_the_readmes_answer(served: LocalServer) -> None:
    text = (ROOT / "README.md").read_text()
    (line,) = re.findall(r"^\$ (curl .*)$", text, re.MULTILINE)
    line = line.replace("http://127.0.0.1:8080/predictions/digits", url(served))
    done = run("bash", "-c", f"{line.replace('digits', 'toy')} --silent --max-time 30")
    (printed,) = re.findall(r"^\{.predictions.*$", text, re.MULTILINE)
    (answer,), (expected,) = (json.loads(each)["predictions"] for each in (done.stdout, printed))
    assert answer["label"] == json.loads(REQUESTS.read_text())[0]["expected"]["label"]
    assert answer.keys() == expected.keys()


def assert_leaves_no_process(local: LocalServer, number: signal.Signals, at_least: int) -> None:
    wait_for(lambda: len(local.descendants()) >= at_least, 30, "its processes")
    started = local.descendants()
    assert local.stop(number).endswith("stopped\n")
    assert local.process.returncode == 0
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]


@shared
def test_ctrl_c_stops_every_process(served: LocalServer) -> None:
    assert_leaves_no_process(served, signal.SIGINT, at_least=2)  # Java and a worker


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_stop_every_process_even_at_startup(
    number: signal.Signals,
) -> None:
    local = LocalServer("--port", str(find_free_port()))
    local.read_until("torchserve: ")  # Java runs
    assert_leaves_no_process(local, number, at_least=1)


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run("make", "--file", str(ROOT / "Makefile"), *arguments, folder=folder)


def test_make_without_python_and_uv_prints_what_to_install(tmp_path: Path) -> None:
    done = make(tmp_path, "--silent", ".venv/bin/python", "PYTHON=no-python", "UV=")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "Python 3.11 is missing: install python3.11 and python3.11-venv, or"
    )


def test_serve_installs_only_its_own_packages_and_paths_may_have_spaces(tmp_path: Path) -> None:
    clone = tmp_path / "a folder with spaces"
    (clone / "requirements").mkdir(parents=True)
    for lock in ("local", "torch", "java", "dev"):
        (clone / "requirements" / f"{lock}.lock").touch()
    for name in (".venv/bin/python", ".venv/serving"):  # in the order of an installation
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).touch()
    done = make(clone, "--dry-run", "serve")
    assert done.returncode == 0, done.stderr
    assert "python -m serving.archive" in done.stdout
    assert "dev.lock" not in done.stdout
    assert "dev.lock" in make(clone, "--dry-run", "lint").stdout


def test_make_works_in_a_folder_with_a_space_for_a_model_in_another(tmp_path: Path) -> None:
    clone, model = tmp_path / "a clone", tmp_path / "My Toy"
    for name in ("handler", "task", "serving", "storage", "project", "authoring", "requirements"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(TOY, model)
    (clone / ".venv").symlink_to(sys.prefix)
    for lock in (clone / "requirements").glob("*.lock"):
        os.utime(lock, (0, 0))  # otherwise .venv is older, and make installs it again
    packed = make(clone, "archive", f"MODEL={model}")
    assert packed.returncode == 0, packed.stderr
    assert "build/my-toy/my-toy.mar" in packed.stdout
    port = find_free_port()
    served = LocalServer("--port", str(port), "--layout", "1x1", folder=clone, MODEL=str(model))
    try:
        served.read_until("Press Ctrl-C to stop.")
        assert f"make predict MODEL='{model}' URL=" in served.output
        again = make(clone, "archive", f"MODEL={model}")
        assert "up to date" in again.stdout
        done = make(clone, "predict", f"MODEL={model}", f"PORT={port}")
        assert re.search(r"^label: \d$", done.stdout, re.MULTILINE), done.stderr
    finally:
        served.stop(signal.SIGINT)


VERSION_MODEL = """
import mine, torch
def load(folder, device): return Model()
class Model:
    def preprocess(self, instance): return torch.tensor([instance])
    def inference(self, batch): return batch
    def postprocess(self, output, parameters): return mine.VERSION
"""


def test_each_model_is_served_with_the_packages_of_its_own_requirements(tmp_path: Path) -> None:
    environ = {"MODEL_OUTPUT": str(tmp_path / "build"), "PIP_NO_INDEX": "1"}
    pythons = []
    for version in ("1.0", "2.0"):
        folder = tmp_path / f"uses-mine-{version[0]}"
        folder.mkdir()
        (folder / "model.py").write_text(VERSION_MODEL)
        wheel = write_wheel(folder, "mine", version)
        (folder / "requirements.txt").write_text(f"./{wheel.name}\n")
        rows = [{"instance": 1, "expected": version}, {"instance": 2, "expected": version}]
        (folder / "requests.json").write_text(json.dumps(rows))
        model = environ | {"MODEL": str(folder)}
        packed = run_program([PYTHON, "-m", "serving.archive"], model)
        assert packed.code == 0, packed.err
        found = run_program([PYTHON, "-m", "project.environment"], model)
        assert found.err == "", "the packages were installed again"
        pythons.append(found.out.strip())
    try:
        first = LocalServer(
            *("--port", str(find_free_port()), "--layout", "1x1"),
            python=pythons[0],
            MODEL=str(tmp_path / "uses-mine-1"),
            MODEL_OUTPUT=environ["MODEL_OUTPUT"],
        )
        try:
            first.read_until("Press Ctrl-C to stop.")
            (line,) = re.findall(r"^ +(curl .*)$", first.output, re.MULTILINE)
            done = run(*shlex.split(line), "--silent", "--max-time", "30")
            assert json.loads(done.stdout) == {"predictions": ["1.0"]}, done.stderr
        finally:
            first.stop(signal.SIGINT)
    finally:
        for python in pythons:
            shutil.rmtree(Path(python).parents[2])


def test_make_help_lists_every_target() -> None:
    done = make(ROOT, "help")
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    assert phony is not None
    renamed = re.findall(r"^RENAMED_(\S+) :=", text, re.MULTILINE)
    listed = re.findall(r"^  make (\S+) ", done.stdout, re.MULTILINE)
    targets = set(phony[1].replace("\\", "").split()) - {"help", *renamed}
    # Targets that are only prerequisites of others have no line of their own.
    assert sorted(listed) == sorted(each for each in targets if not each.startswith("made-"))


def test_renamed_target_warns_and_runs_the_new_one() -> None:
    done = make(ROOT, "--dry-run", "start")
    assert "make start is deprecated: use make startup" in done.stdout
    assert "benchmarks.startup" in done.stdout


PROGRAMS = (
    *("project", "project.environment", "project.weights", "authoring.export", "benchmarks"),
    *("serving.archive", "serving.local", "serving.predict", "serving.stock"),
    *("serving.verification", "contract"),
)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_has_a_help_text(name: str) -> None:
    done = program(name, "--help")
    assert done.returncode == 0
    assert f"usage: python -m {name}" in done.stdout
