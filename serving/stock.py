"""A stock archive: what its manifest says, and how it is made ready to be served here."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
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


class BadArchive(Exception):
    """What was given is no archive of torch-model-archiver's."""


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


def read_manifest(text: str | bytes) -> Manifest:
    """Parse MAR-INF/MANIFEST.json; raise BadArchive."""
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
        raise BadArchive(
            f"{MANIFEST} is not what torch-model-archiver writes: {type(error).__name__}: {error}"
        ) from error


def adapt(contents: Path, name: str) -> Manifest:
    """Make an unpacked archive one that is served as `name`; raise BadArchive.

    A stock archive gets our entry before its own handler; its files stay as they are. Returns
    the manifest as it was.
    """
    file = contents / MANIFEST
    if not file.is_file():
        raise BadArchive(f"{MANIFEST} is missing: torch-model-archiver makes such archives")
    text = file.read_bytes()
    found = read_manifest(text)
    document: dict[str, Any] = json.loads(text)
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
