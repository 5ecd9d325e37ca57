"""Look an image's contents up among the vulnerabilities that are known.

    python -m docker.stages.scan build/sbom.cdx.json

By Grype, Trivy or OSV-Scanner, the first that is on the PATH, with what docker/vex.openvex.json
says of those that do not apply; without them by pip-audit, which knows the Python packages alone.
All of them fetch their data from the network. Exit codes: 0 nothing that can be mended was
found, 1 something was, 2 nothing could be looked up.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VEX = Path("docker/vex.openvex.json")
SCANNERS = {
    "grype": ["grype", "sbom:{sbom}", "--vex", "{vex}", "--only-fixed", "--fail-on", "low"],
    "trivy": ["trivy", "sbom", "--vex", "{vex}", "--ignore-unfixed", "--exit-code", "1", "{sbom}"],
    "osv-scanner": ["osv-scanner", "scan", "--sbom", "{sbom}"],
}
LIMIT_S = 900


def command(name: str, sbom: Path) -> list[str]:
    """Return a scanner's command line."""
    return [word.format(sbom=sbom, vex=VEX) for word in SCANNERS[name]]


def requirements(sbom: Path) -> list[str]:
    """Return the Python packages of a CycloneDX list as pip writes them.

    Without torch's +cpu, which is no release that is known; without what setuptools carries in
    itself, of which pip-audit would take a second version for a mistake.
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
    """Run a scanner and return its exit code, 2 where it has no data."""
    for name in SCANNERS:
        if shutil.which(name):
            return _run(name, command(name, sbom))
    print("no grype, trivy or osv-scanner on the PATH: the Python packages alone, by pip-audit")
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text("\n".join(requirements(sbom)) + "\n")
        words = [
            "--no-deps",
            "--disable-pip",
            "--progress-spinner=off",
            "--timeout=20",
            "--strict",
            "--vulnerability-service=osv",
        ]
        return _run(
            "pip-audit", [sys.executable, "-m", "pip_audit", "--requirement", str(listed), *words]
        )


def _run(name: str, words: list[str]) -> int:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        print(f"{name} took more than {LIMIT_S} s: its data cannot be had here", file=sys.stderr)
        return 2
    print(done.stdout, end="")
    if done.returncode == 0 or done.stdout.strip():
        print(done.stderr, end="", file=sys.stderr)
        return min(done.returncode, 1)
    last = (done.stderr.strip().splitlines() or ["no word"])[-1]
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
