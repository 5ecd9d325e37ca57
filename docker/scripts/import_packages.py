"""Import the packages of a requirements.txt: one that fails ends the build here, not the deployment."""

import argparse
import importlib
import re
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

ADVICE = {
    r"torchvision::|libtorch|libcuda": (
        "it was built for another torch, such as for GPUs: TORCH_INDEX has the build for this one"
    ),
    r"libGL|libgthread": "it needs a screen: write opencv-python-headless in its place",
    r"numpy\.dtype size changed|NumPy 1\.x|numpy\.core\.multiarray": "it was built for NumPy 1: add the line numpy<2",
}
"""What to do about an error that matches a pattern."""


def find_module(requirement: str) -> str | None:
    """Return the module with the name of a requirement, or its only one; None if it is not clear."""
    try:
        name = metadata.distribution(Requirement(requirement).name).metadata["Name"]
    except (InvalidRequirement, metadata.PackageNotFoundError):
        return None  # an option or a path, or a package for other systems
    found = metadata.packages_distributions().items()
    modules = [module for module, names in found if set(names) == {name} and module.isidentifier()]
    same = [module for module in modules if module.lower() == name.lower().replace("-", "_")]
    public = [module for module in modules if not module.startswith("_")]
    return next(iter(same or (public if len(public) == 1 else [])), None)


def main() -> None:
    """Import each package; exit with the first error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("requirements", type=Path, help="the requirements.txt")
    for line in parser.parse_args().requirements.read_text(errors="replace").splitlines():
        module = find_module(line.partition("#")[0].partition(" --")[0].strip())
        if module is None:
            continue
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001  a package may raise anything
            reason = " ".join(str(error).split())
            for pattern, advice in ADVICE.items():
                if re.search(pattern, reason):
                    reason += f"; {advice}"
            sys.exit(f"requirements.txt: {line}: {type(error).__name__}: {reason}")
        print(f"import {module}: works")


if __name__ == "__main__":
    main()
