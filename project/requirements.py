"""Read a requirements.txt as pip does, and adapt that of a stock archive to the packages of the image.

It lists the packages of another image: of another Python, torch and TorchServe, with their versions.
"""

import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

LOCKS = Path(__file__).resolve().parents[1] / "requirements"
SERVER_PACKAGES = ("torch-model-archiver", "torch-workflow-archiver")
DISCONTINUED = {"torchtext": "its last version needs torch 2.3"}
SAME_MODULES = {
    "opencv-python": "opencv-python-headless",
    "opencv-contrib-python": "opencv-contrib-python-headless",
    "sklearn": "scikit-learn",
}
"""The package to install in place of one that needs libGL, or that only has another's name."""
BUILT_FOR_TORCH = ("torchvision", "torchaudio")
"""Packages of which each version needs one version of torch, so that an archive's pin does not apply."""
FIRST_BUILDS = {
    "numba": "0.57.0",
    "numpy": "1.23.2",
    "pandas": "1.5.1",
    "scikit-learn": "1.1.3",
    "scipy": "1.9.2",
}
"""The first version of a compiled package with a wheel for Python 3.11."""
IMAGE = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_version": "3.11",
    "sys_platform": "linux",
}
"""The environment for markers."""
EDITABLE = re.compile(r"(?:-e|--editable)\s+")
REPOSITORY = re.compile(r"(?:(?:-e|--editable)\s+)?(?:\S+\s*@\s*)?(?:(?:git|hg|svn|bzr)\+|git@)")


class Line(NamedTuple):
    """One line of a requirements file, with the lines that continue it."""

    place: str
    """FILE:LINE."""
    raw: str
    text: str
    """Without comments and hashes."""
    requirement: Requirement | None
    """None for an option of pip, an address or a path."""

    @property
    def name(self) -> str:
        """The normalized name of the package; "" for another kind of line."""
        return canonicalize_name(self.requirement.name) if self.requirement else ""


class Change(NamedTuple):
    """What is installed in place of a line."""

    text: str
    """The line of the image's own requirements.txt; "" if the line is left out."""
    reason: str


def read_lines(text: str, file: str) -> Iterator[Line]:
    """Yield the lines that have an effect in the image."""
    raw, start = "", 0
    for number, line in enumerate([*text.splitlines(), ""], 1):
        start = start if raw else number
        raw += f"{line}\n"
        if line.rstrip().endswith("\\"):
            continue
        parts = (re.sub(r"(^|\s)#.*", "", part).rstrip(" \\") for part in raw.splitlines())
        joined = re.sub(r"\s--(?:hash|config-settings)[= ]\S+", "", f" {' '.join(parts)}")
        found = Line(f"{file}:{start}", raw, " ".join(joined.split()), None)
        raw = ""
        if not found.text:
            continue
        if not REPOSITORY.match(found.text):
            with contextlib.suppress(InvalidRequirement):
                found = found._replace(requirement=Requirement(found.text))
        marker = found.requirement.marker if found.requirement else None
        if marker is None or marker.evaluate(IMAGE):
            yield found


def adapt(text: str, file: str, *, is_own: bool) -> tuple[str, list[str]]:
    """Return the requirements of an archive for the image, and a sentence for each line that is changed.

    Of a file that is not the archive's own, but was written for this image, only lines that cannot be followed are
    left out.
    """
    adapted, sentences = [], []
    lines = list(read_lines(text, file))
    are_hashed = any("--hash" in line.raw for line in lines)
    for line in lines:
        change = find_change(line)
        is_needed = change and (is_own or line.requirement is None or _is_fixed(line.name))
        # With hashes, pip takes no line without one.
        if change is None or not is_needed or (change.text and are_hashed):
            adapted.append(line.raw)
            continue
        sentences.append(f"{line.place}: {line.text}: {change.reason}")
        if change.text:
            adapted.append(f"{change.text}\n")
    return "".join(adapted), sentences


def find_change(line: Line) -> Change | None:
    """Return what replaces a line of a stock archive; None if it is installed as it is."""
    if line.requirement is None:
        # pip would leave the files of an editable package in a folder that is not part of the image.
        found = REPOSITORY.match(line.text) and EDITABLE.match(line.text)
        return Change(line.text[found.end() :], "installed without -e") if found else None
    if reason := _find_reason(line.name):
        return Change("", f"left out: {reason}")
    pinned = pin(line)
    if pinned == f"{_join_extras(line.name, line.requirement)}{line.requirement.specifier}":
        return None
    reason = f"installed as {pinned}"
    if line.name in BUILT_FOR_TORCH:
        reason = "installed in the version for the image's torch"
    elif find_old_pin(line):
        reason += ": it has no build for Python 3.11"
    return Change(pinned, reason)


def _find_reason(package: str) -> str:
    """Return why a package is not installed; "" if it is."""
    if package == "ts":
        return f"it is another project's package; the image has TorchServe {list_versions()['torchserve']}"
    if version := list_versions().get(package):
        return f"the image has {package} {version}"
    if package in SERVER_PACKAGES:
        return "it packs archives, and is not needed to serve one"
    return DISCONTINUED.get(package, "")


def pin(line: Line) -> str:
    """Return the requirement for the image that a line becomes."""
    assert line.requirement is not None
    package = SAME_MODULES.get(line.name, line.name)
    if package in BUILT_FOR_TORCH:
        return package
    if find_old_pin(line):
        return f"{package}>={FIRST_BUILDS[package]}"
    return f"{_join_extras(package, line.requirement)}{line.requirement.specifier}"


def find_old_pin(line: Line) -> str | None:
    """Return the requirement of a line that pins a version without a build for Python 3.11; None otherwise."""
    assert line.requirement is not None
    package, version = SAME_MODULES.get(line.name, line.name), str(line.requirement.specifier)
    first = FIRST_BUILDS.get(package)
    is_old = first and re.fullmatch(r"==[\d.]+", version) and Version(version[2:]) < Version(first)
    return f"{package}{version}" if is_old else None


def _join_extras(package: str, requirement: Requirement) -> str:
    extras = ",".join(sorted(requirement.extras))
    return f"{package}[{extras}]" if extras else package


def _is_fixed(name: str) -> bool:
    """Whether the image has a package in one version only, whatever is written."""
    return name in ("torch", "torchserve", "ts", *SERVER_PACKAGES)


@functools.cache
def list_versions() -> dict[str, str]:
    """Return the version of each package in the image."""
    texts = [(LOCKS / f"{name}.lock").read_text() for name in ("serve", "torch")]
    return dict(re.findall(r"(?m)^([a-z0-9][a-z0-9._-]*)==([^\s;]+)", "\n".join(texts)))
