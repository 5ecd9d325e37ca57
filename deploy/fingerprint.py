"""What identifies the sources of an image: fingerprints of files, and git's commit."""

import hashlib
import subprocess
import zipfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from deploy.errors import UserError
from project.model_folder import Model

CACHES = frozenset(
    ("__pycache__", "build", ".git", ".venv", ".ruff_cache", ".mypy_cache", ".pytest_cache")
)
"""Names of files and folders that never belong to the sources."""
IMAGE_SOURCES = (
    "Dockerfile",
    "docker",
    "serving",
    "storage",
    "handler/__init__.py",
    "handler/device_memory.py",
    "handler/envelope.py",
    "handler/errors.py",
    "requirements/serve.lock",
    "requirements/torch.lock",
    "requirements/gpu.lock",
    "requirements/sbom.lock",
    "LICENSE",
    "NOTICE",
)
"""What the Dockerfile copies, except the files of the model."""


class TorchBuild(NamedTuple):
    """The torch of an image: by default the locked one for CPUs."""

    lock: str = "torch"
    """The lock in requirements/: torch, or gpu."""
    version: str = ""
    """A requirement in place of the lock, such as torch==2.13.0+cu126."""
    index_url: str = ""
    """The index of the version; empty: that of the lock."""

    @property
    def is_gpu(self) -> bool:
        """Whether it is a torch for NVIDIA's GPUs."""
        return self.lock == "gpu"


CPU_TORCH = TorchBuild()


def fingerprint(root: Path, names: Iterable[str], exclude: Collection[str] = CACHES) -> str:
    """Return 16 hexadecimal digits that change only with the paths and contents of these files.

    `names` are files or folders, relative to `root`. A file is excluded if its name, or the name of
    a folder between it and `root`, is in `exclude`. A path that does not exist counts as empty.
    """
    total = hashlib.sha256()
    for name in names:
        path = root / name
        files = [path] if path.is_file() else sorted(filter(Path.is_file, path.rglob("*")))
        for file in files:
            relative = file.relative_to(root)
            if not any(part in exclude for part in relative.parts):
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                total.update(f"{relative}\0{digest}\0".encode())
    return total.hexdigest()[:16]


def image_tag(model: Model, torch: TorchBuild = CPU_TORCH, root: Path = Path()) -> str:
    """Return the tag of the image that is built from `root`, a model and torch.

    It is src-, or gpu- for NVIDIA's GPUs, and a fingerprint of the sources.
    """
    for path in model.archives:
        if not (root / path).is_file():
            raise UserError(f"{path} does not exist", "make archive")
    total = hashlib.sha256("\0".join([model.name, *torch]).encode())
    total.update(fingerprint(root, IMAGE_SOURCES).encode())
    # The requirements and the local wheels.
    total.update(fingerprint(root / model.packages, ["."]).encode())
    for path in model.archives:
        if model.folder_archives:
            total.update(path.name.encode())
        _add_archive(total, root / path)
    return f"{'gpu' if torch.is_gpu else 'src'}-{total.hexdigest()[:16]}"


def _add_archive(total: "hashlib._Hash", path: Path) -> None:
    # The archive's entries instead of the file, whose manifest holds the time of packing.
    with zipfile.ZipFile(path) as archive:
        for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
            if not entry.filename.endswith("MANIFEST.json"):
                digest = hashlib.sha256(archive.read(entry)).hexdigest()
                total.update(f"{entry.filename}\0{digest}\0".encode())


def git_commit() -> str:
    """Return git's commit, with -dirty if files differ from it; "" outside a repository."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
