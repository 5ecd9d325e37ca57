"""The commands of python -m functions."""

import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from functions import __main__ as command_line
from functions.registry import KNN
from storage.lazy import sha256
from tests import bucket
from tests.images import TOY
from tests.programs import run_main, run_program

pytestmark = pytest.mark.xdist_group("functions")


Run = Callable[[str], tuple[str, str]]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    emulator: str,
    trained: Path,
) -> Run:
    """Return a function that runs python -m functions in this process; only knn has a model.

    It returns the error, empty for success, and the output.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEPLOY_API_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    KNN.files_folder.mkdir(parents=True)
    shutil.copy(trained, KNN.files_folder)

    def _run(line: str) -> tuple[str, str]:
        result = run_main(command_line.main, line, capsys)
        return str(result.code or ""), result.out

    return _run


def test_error_is_printed_without_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run_program(
            [sys.executable, "-m", "functions", "serve", "hello", "--port", str(port)]
        )
    assert result.code == 1
    assert result.err.startswith(
        f"functions: cannot listen on port {port} of 127.0.0.1: Address already in use\n  choose"
    )
    assert "Traceback" not in result.err


def test_model_is_uploaded_to_a_bucket(run: Run, emulator: str, trained: Path) -> None:
    with bucket.open_client(emulator) as client:
        client.create_bucket("uploaded")
    reason, printed = run("upload knn --storage gs://uploaded/models/knn")
    assert not reason
    assert "gs://uploaded/models/knn/knn.skops: " in printed
    assert f"SHA-256 of knn.skops: {sha256(trained)}" in printed


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            f"serve {TOY}",
            "build/toy/toy.mar cannot be read: No such file or directory\n  make archive MODEL=",
        ),
        ("upload hello --storage gs://bucket/x", "hello has no model"),
        ("upload knn --storage bucket/x", "expected gs://BUCKET/FOLDER"),
        (
            "upload knn --storage gs://no-such-bucket/x",
            "the bucket gs://no-such-bucket does not exist, and no project is set to create it in",
        ),
        ("deploy knn --project my-project --storage /tmp", "STORAGE=gs://"),
        ("deploy hello --project X", "a project ID: 6 to 30"),
        ("deploy hello --project my-project --region us", "a region of Vertex AI such as"),
    ],
)
def test_error_has_the_reason_and_a_hint(run: Run, line: str, message: str) -> None:
    reason, _ = run(line)
    assert message in reason
    assert len(reason.splitlines()) == 2


@pytest.mark.parametrize("command", ["serve", "source", "upload", "deploy"])
def test_help_of_a_command_lists_the_functions(run: Run, command: str) -> None:
    reason, printed = run(f"{command} --help")
    assert not reason
    assert "hello or knn, or a model" in printed
    assert "--model MODEL" in printed


def test_missing_gcloud_is_reported_with_its_install_page(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    reason, _ = run("deploy hello --project my-project")
    assert "gcloud is not installed\n  https://cloud.google.com/sdk" in reason
