"""make function-*, make upload-model and python -m functions, as they are typed."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from functions.catalogue import FUNCTIONS
from serving.torchserve import free_port
from storage.fetched import sha256
from tests import bucket, wire
from tests.functions.conftest import Start
from tests.http import Endpoint, wait_for
from tests.pictures import ROOT


def run(*words: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "functions", *words]
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | environ,
    )


@pytest.mark.parametrize(
    ("name", "body", "says"),
    [
        ("hello", b'{"message": "Good day to you sir!"}', "Good day to you sir!"),
        ("knn", b'{"input_data": "5,3,1,0"}', "Belongs to class: [0]"),
        ("digits", wire.CASES[0].body, f'"label":"{wire.LABEL}"'),
    ],
)
def test_make_runs_a_function_until_ctrl_c(name: str, body: bytes, says: str) -> None:
    port = free_port()
    with subprocess.Popen(
        ["make", f"function-{name}", f"PORT={port}"],
        cwd=ROOT,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as make:
        try:
            wait_for(lambda: make.poll() is not None or _listens(port), 120, f"function-{name}")
            assert says in Endpoint(f"http://127.0.0.1:{port}/").post(body).body
        finally:
            # As a terminal does: to all that runs in its foreground.
            os.killpg(make.pid, signal.SIGINT)
            said, _ = make.communicate(timeout=30)
    assert f"http://127.0.0.1:{port}/" in said
    assert "stopped" in said
    assert "Traceback" not in said
    assert not _listens(port)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_port_that_is_taken_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "hello", "--port", str(port))
    assert done.returncode == 1
    assert f"port {port} of 127.0.0.1: Address already in use\n  PORT=" in done.stderr


def test_make_puts_the_model_into_a_bucket_that_the_function_then_reads(
    emulator: str, start: Start
) -> None:
    with bucket.client(emulator) as client:
        client.create_bucket("from-make")
    words = ["make", "upload-model", "STORAGE=gs://from-make/models/knn"]
    done = subprocess.run(
        words,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"STORAGE_EMULATOR_HOST": emulator},
    )
    assert done.returncode == 0, done.stderr
    assert "gs://from-make/models/knn/knn.skops: " in done.stdout
    pin = sha256(ROOT / "build" / "knn" / "knn.skops")
    assert f"SHA-256 of knn.skops: {pin}" in done.stdout
    uri = "gs://from-make/models/knn"
    knn = start("knn", STORAGE_URI=uri, STORAGE_EMULATOR_HOST=emulator, MODEL_SHA256=pin)
    assert knn.post(b'{"input_data": [6.3, 3.3, 4.7, 1.6]}').body == "Belongs to class: [1]"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["upload", "hello", "--storage", "gs://bucket/x"], "hello has no model"),
        (["upload", "knn", "--storage", "bucket/x"], "expected gs://BUCKET/FOLDER"),
        (
            ["upload", "knn", "--storage", "gs://no-such-bucket/x"],
            "there is no bucket no-such-bucket\n  PROJECT=my-project as well",
        ),
        (["deploy", "knn", "--project", "my-project", "--storage", "/tmp"], "STORAGE=gs://"),
        (["deploy", "hello", "--project", "X"], "a project's ID: 6 to 30"),
        (["deploy", "hello", "--project", "my-project", "--region", "us"], "a region such as"),
    ],
)
def test_what_cannot_be_done_is_said_in_two_lines(
    emulator: str, words: list[str], says: str
) -> None:
    (ROOT / "build" / "knn").mkdir(parents=True, exist_ok=True)
    made = ROOT / "build" / "knn" / "knn.skops"
    if not made.exists():
        subprocess.run(
            [sys.executable, "-m", "functions.knn.train"], cwd=ROOT, timeout=120, check=True
        )
    done = run(*words, STORAGE_EMULATOR_HOST=emulator, DEPLOY_API_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_was_never_made_is_named_with_the_command_that_makes_it(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "functions", "serve", "knn"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    assert f"build/knn/knn.skops does not exist\n  {FUNCTIONS['knn'].make}" in done.stderr


@pytest.mark.parametrize("command", ["serve", "source", "upload", "deploy"])
def test_every_command_explains_itself(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert "{hello,knn,digits}" in done.stdout


def test_without_gcloud_it_says_where_that_comes_from() -> None:
    done = run(
        "deploy",
        "hello",
        "--project",
        "my-project",
        PATH="/nowhere",
        DEPLOY_API_ENDPOINT="http://127.0.0.1:9",
    )
    assert done.returncode == 1
    assert "gcloud is not on this machine\n  https://cloud.google.com/sdk" in done.stderr
