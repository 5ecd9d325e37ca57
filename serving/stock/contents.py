"""Read the files of a stock archive into memory; none of its code is run."""

import re
import shlex
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from project import requirements
from project.model_folder import REQUIREMENTS
from serving.errors import ArchiveError
from serving.stock import pickles
from serving.stock.manifest import Manifest, read_manifest
from serving.text_files import decode_text
from serving.unpacking import unpack

MAX_SCANNED_BYTES = 64 << 20
_SKLEARN = (
    "scikit-learn",
    re.compile(rb"_sklearn_version.{1,12}?(\d+\.\d+(?:\.\d+)?)", re.DOTALL),
)
WRITERS = {
    ".json": (
        "transformers",
        re.compile(rb'"transformers_version"\s*:\s*"(\d+\.\d+(?:\.\d+)?)"'),
    ),
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), _SKLEARN),
}
"""The packages that write their version into files of a suffix, and where."""


class Finding(NamedTuple):
    """One property of the archive."""

    works: bool | None
    """True: it works. False: it does not. None: it works, but may behave differently."""
    description: str
    hint: str = ""
    """What to do about it."""
    requirement: str = ""
    """The line of requirements.txt that adds the missing package."""


class Contents(NamedTuple):
    """The files of an archive."""

    names: list[str]
    sources: dict[str, bytes]
    """Python, YAML and requirements files, by name."""
    weights: dict[str, pickles.Weights]
    """The files that torch.save or TorchScript wrote, by name."""
    zipped: set[str]
    """The modules and packages in zip files of the archive, which a handler may unpack."""
    versions: dict[str, str]
    """The versions of packages that files of the archive were written with, by package."""
    manifest: Manifest
    path: Path

    @property
    def build_command(self) -> str:
        """The command that puts the archive and its packages into an image."""
        return f"make build MODEL={shlex.quote(str(self.path))}"

    @property
    def requirements(self) -> tuple[str, str]:
        """The name and the text of the requirements that `make build` installs; the name is "" without any."""
        beside = self.path.with_name(REQUIREMENTS)
        if beside.is_file():
            return f"{REQUIREMENTS} beside the archive", decode_text(beside.read_bytes())
        own = self.manifest.requirements_file or REQUIREMENTS
        return (own, self.text(own)) if own in self.sources else ("", "")

    @property
    def has_requirements(self) -> bool:
        """Whether `make build` with this archive adds packages to the image."""
        file, text = self.requirements
        is_own = file in self.sources
        return bool(requirements.adapt(text, file, is_own=is_own)[0])

    def text(self, name: str | None) -> str:
        """Return the text of a file; "" if it does not exist."""
        return decode_text(self.sources.get(name or "", b""))


def read_archive(archive: Path) -> Contents:
    """Read an archive, or an unpacked one's folder; raise ArchiveError if it has no manifest."""
    if not archive.exists():
        raise ArchiveError(f"{archive} does not exist")
    with tempfile.TemporaryDirectory(prefix="migrate-") as scratch:
        folder = archive
        if archive.is_file():
            folder = Path(scratch) / archive.name
            folder.mkdir()
            unpack(archive, folder)
        manifest = read_manifest(folder)
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        names = [str(file.relative_to(folder)) for file in files]
        sources: dict[str, bytes] = {}
        weights: dict[str, pickles.Weights] = {}
        zipped: set[str] = set()
        versions: dict[str, str] = {}
        for name, file in zip(names, files, strict=True):
            if file.suffix in (".py", ".yaml", ".yml") or name in (
                manifest.requirements_file,
                REQUIREMENTS,
            ):
                sources[name] = file.read_bytes()
            elif found := pickles.read_weights(file):
                weights[name] = found
            elif zipfile.is_zipfile(file):
                zipped |= _list_zipped(file)
            else:
                versions |= _find_versions(file)
    return Contents(names, sources, weights, zipped, versions, manifest, archive)


def _list_zipped(file: Path) -> set[str]:
    try:
        with zipfile.ZipFile(file) as contents:
            return {name.split("/")[0].removesuffix(".py") for name in contents.namelist()}
    except (zipfile.BadZipFile, OSError):
        return set()


def _find_versions(file: Path) -> dict[str, str]:
    """Return the version of transformers or scikit-learn that wrote a file."""
    if file.suffix not in WRITERS or file.stat().st_size > MAX_SCANNED_BYTES:
        return {}
    package, pattern = WRITERS[file.suffix]
    match = pattern.search(file.read_bytes())
    return {package: match[1].decode()} if match else {}
