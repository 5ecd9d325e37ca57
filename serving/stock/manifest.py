"""What a .mar says of itself, and how a stock one is made ready to be served here."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from serving.errors import ArchiveError

ROOT = Path(__file__).resolve().parents[2]
ENTRY = Path(__file__).with_name("stock_handler.py")
SERVED_BY = "vertex_stock_handler.py"
"""The entry's name in the archive: one that no handler of a user's has."""
CORE = "vertex_core"
"""The folder in the archive with the envelope: `handler` is a name that archives use themselves."""
STOCK = "stock"
"""The manifest's key for the name and the handler that a stock archive came with."""
OURS = "vertex_handler.py"
"""The handler of an archive of this project's."""
MANIFEST = "MAR-INF/MANIFEST.json"


class Manifest(NamedTuple):
    """What of an archive's manifest matters here."""

    name: str
    handler: str
    """FILE.py, FILE.py:FUNCTION, or the name of one of TorchServe's own handlers."""
    model_file: str | None
    serialized_file: str | None
    requirements_file: str | None
    config_file: str | None
    version: str = ""


def open_archive(archive: Path) -> zipfile.ZipFile:
    """Open a .mar; raise ArchiveError."""
    try:
        return zipfile.ZipFile(archive)
    except FileNotFoundError:
        raise ArchiveError(f"{archive} does not exist: run make archive") from None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ArchiveError(f"{archive} is no archive: {error}") from error


def read_bytes(archive: Path, name: str) -> bytes | None:
    """Return a file of a .mar, or of the folder of an unpacked one; None where it has none."""
    try:
        if archive.is_dir():
            return (archive / name).read_bytes()
        with open_archive(archive) as contents:
            return contents.read(name)
    except (FileNotFoundError, KeyError):
        return None


def read_manifest(archive: Path) -> Manifest:
    """Read the manifest of a .mar, or of the folder of an unpacked one; raise ArchiveError."""
    text = read_bytes(archive, MANIFEST)
    if text is None:
        reason = "torch-model-archiver makes such archives"
        raise ArchiveError(f"{archive.name}: {MANIFEST} is missing: {reason}")
    try:
        model = json.loads(text)["model"]
        return Manifest(
            str(model["modelName"]),
            str(model["handler"]),
            model.get("modelFile"),
            model.get("serializedFile"),
            model.get("requirementsFile"),
            model.get("configFile"),
            str(model.get("modelVersion", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArchiveError(
            f"{MANIFEST} is not what torch-model-archiver writes: {type(error).__name__}: {error}"
        ) from error


def adapt(contents: Path, name: str) -> Manifest:
    """Make an unpacked archive one that is served as `name`; raise ArchiveError.

    A stock archive gets our entry before its own handler; its files stay as they are. Returns
    the manifest as it was.
    """
    found, file = read_manifest(contents), contents / MANIFEST
    document: dict[str, Any] = json.loads(file.read_bytes())
    document["model"]["modelName"] = name
    if found.handler != OURS:
        document["model"] |= {
            "handler": SERVED_BY,
            STOCK: {"name": found.name, "handler": found.handler},
        }
        shutil.copyfile(ENTRY, contents / SERVED_BY)
        (contents / CORE).mkdir()
        for module in ("__init__.py", "envelope.py", "errors.py"):
            shutil.copyfile(ROOT / "handler" / module, contents / CORE / module)
    file.write_text(json.dumps(document, indent=2))
    return found
