"""Look up an image's packages in a database of known vulnerabilities.

    python docker/scripts/scan.py build/sbom.cdx.json

Runs Grype, Trivy or OSV-Scanner, the first that is on the PATH; without them pip-audit, which
knows the Python packages alone. All of them fetch their data from the network. docs/security.md
lists what they report although it cannot be reached. Exit codes: 0 no vulnerability that has a
fix, 1 there is one, 2 the scanner could not get its data.
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
    """Return the Python packages of a CycloneDX list in the form of a requirements file.

    Without torch's +cpu, which no database has, and without the packages inside setuptools,
    which pip-audit would take for second versions.
    """
    found = {}
    for each in json.loads(sbom.read_text())["components"]:
        places = [
            one["value"] for one in each.get("properties", []) if one["name"].endswith("path")
        ]
        if each.get("purl", "").startswith("pkg:pypi/") and not any(
            "/_vendor/" in p for p in places
        ):
            found[re.sub(r"[-_.]+", "-", each["name"].lower())] = each["version"].partition("+")[0]
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def scan(sbom: Path) -> int:
    """Run a scanner, print its report and return the exit code."""
    for name, command in SCANNERS.items():
        if shutil.which(name):
            return _run(name, [word.format(sbom=sbom) for word in command.split()])
    print("no grype, trivy or osv-scanner on the PATH: the Python packages alone, by pip-audit")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
        listed.write("\n".join(requirements(sbom)) + "\n")
        listed.flush()
        return _run("pip-audit", [sys.executable, *PIP_AUDIT.split(), listed.name])


def _run(name: str, words: list[str]) -> int:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        print(f"{name} timed out after {TIMEOUT_S} s: no access to its data", file=sys.stderr)
        return 2
    print(done.stdout, end="")
    if done.returncode == 0 or done.stdout.strip():
        print(done.stderr, end="", file=sys.stderr)
        return min(done.returncode, 1)
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    print(f"nothing was looked up: {name} has no data here: {last[:300]}", file=sys.stderr)
    return 2


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sbom", type=Path, help="the image's list, as make build writes it")
    args = parser.parse_args()
    if not args.sbom.is_file():
        sys.exit(f"{args.sbom} does not exist: run make build")
    sys.exit(scan(args.sbom))


if __name__ == "__main__":
    main()
