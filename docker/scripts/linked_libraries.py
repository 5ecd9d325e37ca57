"""Check that each library that torch's and NVIDIA's libraries link to is in the image, except the driver's."""

import argparse
import subprocess
import sys
from pathlib import Path

DRIVER = frozenset(("libcuda.so.1", "libnvidia-ml.so.1"))
"""Libraries of NVIDIA's driver: the machine with the GPU puts them into the container."""


def find_missing(library: Path) -> list[str]:
    """Return the names of the libraries that this one links to, directly or not, and that are not found."""
    command = ["ldd", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    missing = (line.partition(" => ") for line in done.stdout.splitlines() if "not found" in line)
    return sorted({name.strip() for name, _, _ in missing} - DRIVER)


def main() -> None:
    """Print how many libraries were checked; exit with those that link to a missing one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("environment", type=Path, help="the virtual environment")
    packages = parser.parse_args().environment / "lib/python3.11/site-packages"
    libraries = [
        *packages.glob("torch/lib/*.so*"),
        *packages.glob("nvidia/*/lib/*.so*"),
    ]
    if not libraries:
        sys.exit(f"{packages}: torch has no libraries")
    found = {library.name: find_missing(library) for library in libraries}
    if faults := [
        f"{name} links to {', '.join(missing)}" for name, missing in found.items() if missing
    ]:
        sys.exit(f"libraries are missing: {'; '.join(faults)}")
    print(f"{len(libraries)} libraries of torch and NVIDIA find all that they link to")


if __name__ == "__main__":
    main()
