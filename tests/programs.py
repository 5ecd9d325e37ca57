"""Running programs in tests, in this process or in a new one, and the tools that they require."""

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
"""Variables by which make passes its options to programs; they would affect the make of a test."""

INSTALL_HINTS = {
    "chromedriver": "Debian's package chromium-driver",
    "chromium": "Debian's package chromium",
    "docker-registry": "Debian's package docker-registry",
    "gcloud": "https://cloud.google.com/sdk/docs/install",
    "gke-gcloud-auth-plugin": "gcloud components install gke-gcloud-auth-plugin",
    "prometheus": "Debian's package prometheus",
    "promtool": "Debian's package prometheus",
}
"""How to install each program."""


def require_programs(*programs: str) -> None:
    """Skip the test if a program is missing; with REQUIRE_ALL the test fails."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: {INSTALL_HINTS[program]}")


class Result(NamedTuple):
    """The exit code and output of a program."""

    code: int
    out: str
    err: str


def run_main(
    main: Callable[[list[str]], object], line: str, capture: pytest.CaptureFixture[str]
) -> Result:
    """Run a program's `main` in this process with the arguments in `line`."""
    code: Any = 0
    capture.readouterr()
    try:
        main(shlex.split(line))
    except SystemExit as error:
        code = error.code
    return Result(code, *capture.readouterr())


def run_program(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    *,
    cwd: Path = ROOT,
    timeout_s: float = 180,
) -> Result:
    """Run a program with the environment of the tests, updated with `env`."""
    inherited = {name: value for name, value in os.environ.items() if name not in MAKE_VARIABLES}
    completed = subprocess.run(
        command,
        cwd=cwd,
        env={**inherited, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Result(completed.returncode, completed.stdout, completed.stderr)


def copy_repository(root: Path) -> None:
    """Copy this repository's files into a folder, without what is built from them.

    The copy uses the Python environment of the tests.
    """
    files = run_program(["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"])
    for name in filter(None, files.out.split("\0")):
        if (ROOT / name).exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name, follow_symlinks=False)
    (root / ".venv").symlink_to(sys.prefix)
    for lock in (root / "requirements").glob("*.lock"):
        os.utime(lock, (0, 0))  # otherwise .venv is older, and make installs it again
