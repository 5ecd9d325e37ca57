"""Programs that the tests run: in this process, in one of their own, and tools that must be installed."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.images import ROOT

MAKE_VARIABLES = ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")
"""Variables by which a make above hands its own options on."""

INSTALL_HINTS = {
    "docker-registry": "Debian's package docker-registry",
    "gcloud": "https://cloud.google.com/sdk/docs/install",
    "gke-gcloud-auth-plugin": "gcloud components install gke-gcloud-auth-plugin",
    "prometheus": "Debian's package prometheus",
    "promtool": "Debian's package prometheus",
}
"""Where each program comes from."""


def require_programs(*programs: str) -> None:
    """Skip with the reason if a program is missing; REQUIRE_ALL makes that a failure."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: {INSTALL_HINTS[program]}")


class Result(NamedTuple):
    """A program that ended."""

    code: int
    out: str
    err: str


def run_main(
    main: Callable[[list[str]], object], line: str, capture: pytest.CaptureFixture[str]
) -> Result:
    """Run a program's `main` in this process with the words of a command line."""
    code: Any = 0
    capture.readouterr()
    try:
        main(shlex.split(line))
    except SystemExit as end:
        code = end.code
    return Result(code, *capture.readouterr())


def run_program(
    words: Sequence[str],
    env: Mapping[str, str] | None = None,
    *,
    cwd: Path = ROOT,
    timeout_s: float = 180,
) -> Result:
    """Run a program, with these variables beside the ones that the tests have."""
    inherited = {name: value for name, value in os.environ.items() if name not in MAKE_VARIABLES}
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**inherited, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def copy_repository(root: Path) -> None:
    """Copy this repository into a folder as git would clone it, with the trained model and its archive.

    Its environment for Python is this one.
    """
    listed = run_program(["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"])
    for name in filter(None, listed.out.split("\0")):
        if (ROOT / name).exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name, follow_symlinks=False)
    for folder in ("model", "model-store"):
        shutil.copytree(ROOT / "build" / folder, root / "build" / folder)
    (root / ".venv").symlink_to(sys.prefix)
    for lock in (root / "requirements").glob("*.lock"):
        os.utime(lock, (0, 0))  # or make takes .venv for older than they are
