"""Scan an image's SBOM for known vulnerabilities.

    python docker/scripts/scan.py build/sbom.cdx.json

Runs the first of Grype, Trivy and OSV-Scanner that is on the PATH, otherwise pip-audit, which covers
only the Python packages. All of them download their data. docs/security.md lists the findings that
do not affect this image. Exit codes: 0 no vulnerability with a fix, 1 at least one, 2 no data.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SCANNERS = {
    "grype": "grype sbom:{sbom} --only-fixed --fail-on low",
    "trivy": "trivy sbom --ignore-unfixed --exit-code 1 {sbom}",
    "osv-scanner": "osv-scanner scan --sbom {sbom}",
}
PIP_AUDIT = (
    "-m pip_audit --no-deps --disable-pip --progress-spinner=off --timeout=20 --strict "
    "--vulnerability-service=osv --requirement"
)
TIMEOUT_S = 900


def requirements(sbom: Path) -> list[str]:
    """Return the Python packages of a CycloneDX SBOM as the lines of a requirements file.

    Local version labels are removed, because databases list torch without its +cpu. The packages that
    setuptools vendors are left out: pip-audit would take them for conflicting versions.
    """
    versions = {}
    for component in json.loads(sbom.read_text())["components"]:
        properties = component.get("properties", [])
        paths = [each["value"] for each in properties if each["name"].endswith("path")]
        is_python = component.get("purl", "").startswith("pkg:pypi/")
        if is_python and not any("/_vendor/" in path for path in paths):
            name = re.sub(r"[-_.]+", "-", component["name"].lower())
            versions[name] = component["version"].partition("+")[0]
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


def scan(sbom: Path) -> int:
    """Run a scanner, print its report and return the exit code."""
    for name, command in SCANNERS.items():
        if shutil.which(name):
            return _run(name, [word.format(sbom=sbom) for word in command.split()])
    print("grype, trivy and osv-scanner are not on the PATH: pip-audit checks only Python packages")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(requirements(sbom)) + "\n")
        file.flush()
        return _run("pip-audit", [sys.executable, *PIP_AUDIT.split(), file.name])


def _run(name: str, command: list[str]) -> int:
    try:
        completed = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        print(f"{name} timed out after {TIMEOUT_S} s without its data", file=sys.stderr)
        return 2
    print(completed.stdout, end="")
    if completed.returncode == 0 or completed.stdout.strip():
        print(completed.stderr, end="", file=sys.stderr)
        return min(completed.returncode, 1)
    reason = (completed.stderr.strip().splitlines() or ["no message"])[-1]
    print(f"not scanned: {name} could not get its data: {reason[:300]}", file=sys.stderr)
    return 2


def main() -> None:
    """Parse the options, scan the SBOM and exit with the scanner's result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sbom", type=Path, help="the SBOM that make build writes")
    args = parser.parse_args()
    if not args.sbom.is_file():
        sys.exit(f"scan: {args.sbom} does not exist; run make build")
    sys.exit(scan(args.sbom))


if __name__ == "__main__":
    main()
