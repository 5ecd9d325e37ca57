"""The entrypoint, run as a process: a container that cannot serve ends with the reason."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.container import entrypoint
from serving.container.errors import StartupError
from tests import bucket
from tests.images import ARCHIVE, ROOT, TOY


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    """Start a Cloud Storage emulator without buckets; return its URL."""
    with bucket.storage_emulator() as url:
        yield url


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Return a folder for the PATH with an nginx that only waits for a signal."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "nginx").write_text("#!/bin/sh\nexec sleep 60\n")
    (folder / "nginx").chmod(0o755)
    return folder


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """Return a folder with a swapped archive and with weights that fail their requests."""
    folder = tmp_path / "cases"
    for name in ("swapped", "other-weights"):
        (folder / name).mkdir(parents=True)
    (folder / "swapped" / "toy.mar").symlink_to(ARCHIVE)
    (folder / "swapped" / "toy.mar.sha256").write_text(f"{'0' * 64}  toy.mar\n")
    for name in ("weights.safetensors", "labels.json"):
        (folder / "other-weights" / name).write_bytes((TOY / name).read_bytes())
    requests = json.loads((TOY / "requests.json").read_text())
    requests[0]["expected"]["label"] = "another"
    (folder / "other-weights" / "requests.json").write_text(json.dumps(requests))
    return folder


FAULTS = {
    "invalid variable": (
        {"AIP_HTTP_PORT": "http"},
        "AIP_HTTP_PORT='http': expected a port from 1 to 65535$",
    ),
    "swapped archive": (
        {"MODEL_STORE": "{cases}/swapped"},
        r"toy\.mar: its SHA-256 is [0-9a-f]{64}, but toy\.mar\.sha256 has 0{64}",
    ),
    "no bucket": (
        {"AIP_STORAGE_URI": "gs://no-such-bucket/x"},
        "gs://no-such-bucket/x: .*does the bucket exist",
    ),
    "weights with another expected prediction": (
        {"AIP_STORAGE_URI": "{cases}/other-weights"},
        "the model fails its requests: ",
    ),
}


def run(programs: Path, **environ: str) -> tuple[int, list[str]]:
    """Run the entrypoint until it ends; return its exit code and its log lines."""
    inherited = {
        name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ
    }
    inherited["PATH"] = f"{programs}:{inherited['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "serving.container"],
        cwd=ROOT,
        env=inherited | {"MODEL_STORE": str(ARCHIVE.parent)} | environ,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize(("variables", "reason"), FAULTS.values(), ids=FAULTS.keys())
def test_fault_ends_the_container_with_the_reason_in_its_last_line(
    programs: Path, cases: Path, emulator: str, variables: dict[str, str], reason: str
) -> None:
    given = {name: value.format(cases=cases) for name, value in variables.items()}
    code, lines = run(programs, STORAGE_EMULATOR_HOST=emulator, **given)
    assert code == 1
    assert re.match(f"cannot serve: .*{reason}", json.loads(lines[-1])["message"])
    assert {json.loads(line)["severity"] for line in lines} <= {"INFO", "CRITICAL"}


def test_log_format_text_is_readable(programs: Path) -> None:
    code, lines = run(programs, AIP_HTTP_PORT="0", LOG_FORMAT="text")
    assert code == 1
    assert re.fullmatch(
        r"[\d:]{8} CRITICAL cannot serve: AIP_HTTP_PORT='0': expected .*", lines[-1]
    )


def test_error_without_a_writable_folder_names_the_option_that_mounts_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(StartupError, match=r"no writable folder: .*; mount one with --tmpfs /tmp"):
        entrypoint._create_run_folder()
