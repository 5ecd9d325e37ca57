"""`make scan` reports an image's known vulnerabilities, or that it could not check them."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from tests.images import ROOT
from tests.programs import run_program

SCAN = ROOT / "docker/scripts/scan.py"


def write_sbom(folder: Path, *components: dict[str, object]) -> Path:
    """Write an SBOM in the format CycloneDX."""
    file = folder / "sbom.cdx.json"
    file.write_text(json.dumps({"components": components}))
    return file


def package(name: str, version: str, path: str = "/x") -> dict[str, object]:
    """Return a Python package in the format of Syft."""
    return {
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{version}",
        "properties": [{"name": "syft:location:0:path", "value": path}],
    }


def test_python_packages_have_normalised_names_and_public_versions(tmp_path: Path) -> None:
    sbom = write_sbom(
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
    requirements = runpy.run_path(str(SCAN))["requirements"](sbom)
    assert requirements == ["torch==2.13.0", "typing-extensions==4.16.0", "wheel==0.48.0"]


@pytest.mark.parametrize(
    ("script", "code", "message"),
    [
        ("echo nothing found", 0, "nothing found"),
        ("echo CVE-2026-1; exit 1", 1, "CVE-2026-1"),
        ("echo 'CVE-2026-1'; exit 2", 1, "CVE-2026-1"),
        (
            "echo 'failed to load vulnerability db' >&2; exit 1",
            2,
            "could not get its data: failed to load",
        ),
    ],
)
def test_scan_reports_the_output_and_result_of_an_installed_scanner(
    tmp_path: Path, script: str, code: int, message: str
) -> None:
    (tmp_path / "grype").write_text(
        f'#!/bin/sh\ntest "$1" = "sbom:{tmp_path}/sbom.cdx.json"\n{script}\n'
    )
    (tmp_path / "grype").chmod(0o755)
    command = [sys.executable, str(SCAN), str(write_sbom(tmp_path))]
    result = run_program(command, {"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert result.code == code, result
    assert message in result.out + result.err
