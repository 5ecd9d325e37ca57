"""make scan: an image's list is looked up, or it is said that it was not."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from tests.images import ROOT
from tests.programs import run_program

SCAN = ROOT / "docker/scripts/scan.py"


def listed(folder: Path, *components: dict[str, object]) -> Path:
    """Write a list in CycloneDX."""
    file = folder / "sbom.cdx.json"
    file.write_text(json.dumps({"components": components}))
    return file


def package(name: str, version: str, path: str = "/x") -> dict[str, object]:
    """Return a Python package as Syft lists it."""
    return {
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{version}",
        "properties": [{"name": "syft:location:0:path", "value": path}],
    }


def test_python_s_packages_are_named_as_releases_are(tmp_path: Path) -> None:
    sbom = listed(
        tmp_path,
        package("torch", "2.13.0+cpu"),
        package("typing_extensions", "4.16.0"),
        package("wheel", "0.48.0"),
        package("wheel", "0.1", "/lib/setuptools/_vendor/wheel"),
        {
            "name": "netty-codec",
            "version": "4.1.48.Final",
            "purl": "pkg:maven/io.netty/netty-codec@4",
        },
    )
    found = runpy.run_path(str(SCAN))["requirements"](sbom)
    assert found == ["torch==2.13.0", "typing-extensions==4.16.0", "wheel==0.48.0"]


@pytest.mark.parametrize(
    ("program", "code", "says"),
    [
        ("echo nothing found", 0, "nothing found"),
        ("echo CVE-2026-1; exit 1", 1, "CVE-2026-1"),
        ("echo 'CVE-2026-1'; exit 2", 1, "CVE-2026-1"),
        ("echo 'failed to load vulnerability db' >&2; exit 1", 2, "no data here: failed to load"),
    ],
)
def test_a_scanner_that_is_there_is_run_and_its_word_passed_on(
    tmp_path: Path, program: str, code: int, says: str
) -> None:
    (tmp_path / "grype").write_text(
        f'#!/bin/sh\ntest "$1" = "sbom:{tmp_path}/sbom.cdx.json"\n{program}\n'
    )
    (tmp_path / "grype").chmod(0o755)
    command = [sys.executable, str(SCAN), str(listed(tmp_path))]
    done = run_program(command, {"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert done.code == code, done
    assert says in done.out + done.err
