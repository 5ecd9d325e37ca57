"""List NVIDIA's libraries with the libraries that use each; fail if one that torch or NVIDIA links to is missing.

docker run --rm --interactive --entrypoint /opt/venv/bin/python IMAGE - /opt/venv < docker/scripts/linked_libraries.py
"""

import argparse
import mmap
import re
import subprocess
import sys
from pathlib import Path

DRIVER = frozenset(("libcuda.so.1", "libnvidia-ml.so.1"))
"""Libraries of NVIDIA's driver: the machine with the GPU puts them into the container."""
NAME = re.compile(rb"lib[\w-]+(?=\.so)")
MB = 1_000_000


def find_missing(library: Path) -> list[str]:
    """Return the names of the libraries that this one links to, directly or not, and that are not found."""
    command = ["ldd", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    missing = (line.partition(" => ") for line in done.stdout.splitlines() if "not found" in line)
    return sorted({name.strip() for name, _, _ in missing} - DRIVER)


def find_users(libraries: list[Path]) -> dict[Path, list[str]]:
    """Return for each library the others that contain its name, because they link to it or load it when needed."""
    names = {library: library.name.partition(".so")[0] for library in libraries}
    users: dict[str, list[str]] = {name: [] for name in names.values()}
    for library, own in names.items():
        with (
            library.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            found = {name.decode() for name in NAME.findall(content)}
        for name in found & users.keys() - {own}:
            users[name].append(own)
    return {library: sorted(users[name]) for library, name in names.items()}


def main() -> None:
    """Print the table and how many libraries were checked; exit with those that link to a missing one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("environment", type=Path, help="the virtual environment")
    packages = parser.parse_args().environment / "lib/python3.11/site-packages"
    libraries = [*packages.glob("torch/lib/*.so*"), *packages.glob("nvidia/*/lib/*.so*")]
    if not libraries:
        sys.exit(f"{packages}: torch has no libraries")
    sizes = {library: library.stat().st_size for library in libraries}
    users = find_users(libraries)
    for library in sorted(libraries, key=lambda library: -sizes[library]):
        if "nvidia" in library.relative_to(packages).parts:
            used_by = ", ".join(users[library]) or "no library"
            print(f"{sizes[library] / MB:6.1f} MB  {library.name:42} used by {used_by}")
    found = {library.name: find_missing(library) for library in libraries}
    if faults := [
        f"{name} links to {', '.join(missing)}" for name, missing in found.items() if missing
    ]:
        sys.exit(f"libraries are missing: {'; '.join(faults)}")
    print(f"{len(libraries)} libraries of torch and NVIDIA find all that they link to")


if __name__ == "__main__":
    main()
