"""Read the manifest of a .mar, and adapt a stock archive to be served here."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from serving.errors import ArchiveError
from serving.text_files import decode_text

ROOT = Path(__file__).resolve().parents[2]
HANDLER_FILE = Path(__file__).with_name("stock_handler.py")
ADAPTED_HANDLER = "vertex_stock_handler.py"
"""The name of HANDLER_FILE in an adapted archive, chosen not to collide with the user's files."""
ENVELOPE_PACKAGE = "vertex_core"
"""The package with MODULES in an adapted archive, which may have its own `handler`."""
MODULES = (
    *(
        ROOT / "handler" / name
        for name in ("__init__.py", "device_memory.py", "envelope.py", "errors.py")
    ),
    *(HANDLER_FILE.with_name(name) for name in ("failures.py", "bodies.py")),
)
"""What HANDLER_FILE imports."""
STOCK_KEY = "stock"
"""The manifest's key for the original name and handler of a stock archive."""
MARK = "vertexTorchServe"
"""The manifest's key that marks an archive of this project; its value is a JSON object."""
VALUE = {"archiveVersion": 1}
UNMARKED_HANDLER = "vertex_handler.py"
UNMARKED_FILES = ("golden-request.json", "task/__init__.py", "handler/__init__.py")
"""The handler and files of archives of this project that were packed before there was a mark."""
STARTUP_TIMEOUT_S = 600
"""The time for loading a model."""
LAST_RESPONSE_TIMEOUT_S = 3610
"""The time after which Java ends a worker that does not end a batch itself: longer than any RESPONSE_TIMEOUT_S."""
TIMEOUTS = {"startupTimeout": STARTUP_TIMEOUT_S, "responseTimeout": LAST_RESPONSE_TIMEOUT_S}
"""What TorchServe sets to 120 s for an archive with a model-config.yaml without them, whatever is configured for it."""
MANIFEST = "MAR-INF/MANIFEST.json"
GOLDEN_REQUEST = "MAR-INF/golden-request.json"
"""The request for health probes that was beside the archive, as a file in it.

At its root, a stock archive may have a file of the same name with another meaning.
"""


class Manifest(NamedTuple):
    """The fields of an archive's manifest that are used here."""

    name: str
    handler: str
    """FILE.py, FILE.py:FUNCTION, or the name of a handler of TorchServe's own."""
    serialized_file: str | None
    requirements_file: str | None
    config_file: str | None
    version: str = ""
    model_file: str | None = None
    """The file with the class of an eager model."""
    origin: str = ""
    """The version of torch-model-archiver and the date, as the manifest has them."""
    is_project: bool = False
    """Whether this project packed the archive. The files of any other one have only the meaning of TorchServe."""
    is_adapted: bool = False
    """Whether it is a stock archive that `adapt` has changed."""


def open_archive(archive: Path) -> zipfile.ZipFile:
    """Open a .mar for reading; raise ArchiveError."""
    try:
        return zipfile.ZipFile(archive)
    except FileNotFoundError:
        raise ArchiveError(f"{archive} does not exist; run: make archive") from None
    except zipfile.BadZipFile as error:
        raise ArchiveError(f"{archive.name} {_describe_file(archive)}") from error
    except (OSError, ValueError, NotImplementedError) as error:
        raise ArchiveError(f"{archive} is not a .mar archive: {error}") from error


def _describe_file(archive: Path) -> str:
    """Say what a file is that is no zip file."""
    with archive.open("rb") as file:
        start = file.read(40)
    if not start:
        return "is empty; copy it again"
    if start.startswith(b"PK"):
        return f"is incomplete: the end of the archive is missing after {archive.stat().st_size} bytes; copy it again"
    return (
        f"is not a .mar archive, it starts with {start.decode(errors='replace')!a}; copy it again"
    )


def read_bytes(archive: Path, name: str) -> bytes | None:
    """Return a file of a .mar, or of an unpacked one's folder; None if it does not exist."""
    try:
        if archive.is_dir():
            return (archive / name).read_bytes()
        with open_archive(archive) as contents:
            return contents.read(name)
    except (FileNotFoundError, KeyError):
        return None


def content_bytes(archive: Path) -> int:
    """Return the size of the files in a .mar, or in an unpacked one's folder; raise ArchiveError."""
    if archive.is_dir():
        return sum(file.stat().st_size for file in archive.rglob("*") if file.is_file())
    with open_archive(archive) as contents:
        return sum(entry.file_size for entry in contents.infolist())


def read_manifest(archive: Path) -> Manifest:
    """Return the manifest of a .mar, or of an unpacked one's folder; raise ArchiveError."""
    text = read_bytes(archive, MANIFEST)
    if text is None:
        raise ArchiveError(
            f"{archive.name}: {MANIFEST} is missing; build the archive with torch-model-archiver"
        )
    try:
        document = json.loads(text)
        model = document["model"]
        return Manifest(
            str(model["modelName"]),
            str(model["handler"]),
            model.get("serializedFile"),
            model.get("requirementsFile"),
            model.get("configFile"),
            str(model.get("modelVersion", "")),
            model.get("modelFile"),
            f"torch-model-archiver {document.get('archiverVersion')}, {document.get('createdOn')}",
            is_project=isinstance(document.get(MARK), dict) or _is_unmarked(archive, model),
            is_adapted=model["handler"] == ADAPTED_HANDLER
            and isinstance(model.get(STOCK_KEY), dict),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArchiveError(
            f"{MANIFEST} is invalid: {type(error).__name__}: {error}; build the archive with torch-model-archiver"
        ) from error


def _is_unmarked(archive: Path, model: dict[str, Any]) -> bool:
    """Whether this project packed an archive before there was a mark."""
    return model["handler"] == UNMARKED_HANDLER and all(
        read_bytes(archive, name) is not None for name in UNMARKED_FILES
    )


def _complete_config(data: bytes) -> str:
    """Return a model-config.yaml in UTF-8, the only encoding that TorchServe reads, and with all TIMEOUTS."""
    import yaml  # noqa: PLC0415  slow to import, and most archives have no such file

    text = decode_text(data)
    try:
        return str(yaml.safe_dump(TIMEOUTS | yaml.safe_load(text), allow_unicode=True))
    except (yaml.YAMLError, TypeError, RecursionError):
        return text  # its error is reported when its settings are read


def _replace_text(file: Path, text: str) -> None:
    file.unlink()  # it may be a link to a file of the user
    file.write_text(text, "utf-8")


def mark(contents: Path) -> None:
    """Mark an unpacked archive as one of this project."""
    file = contents / MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_bytes()), MARK: VALUE}, indent=2))


def adapt(contents: Path, name: str) -> Manifest:
    """Adapt an unpacked archive to be served as `name`; return its original manifest.

    A stock archive gets StockHandler in front of its own handler; its files are not changed.
    Raises ArchiveError.
    """
    original, file = read_manifest(contents), contents / MANIFEST
    document: dict[str, Any] = json.loads(file.read_bytes())
    document["model"]["modelName"] = name
    if original.is_project:
        document.setdefault(MARK, VALUE)
    elif not original.is_adapted:
        for used in (ADAPTED_HANDLER, ENVELOPE_PACKAGE):
            if (contents / used).exists():
                raise ArchiveError(
                    f"{used}: the name is used by this project; rename it in the archive"
                )
        document["model"] |= {
            "handler": ADAPTED_HANDLER,
            STOCK_KEY: {"name": original.name, "handler": original.handler},
        }
        shutil.copyfile(HANDLER_FILE, contents / ADAPTED_HANDLER)
        (contents / ENVELOPE_PACKAGE).mkdir()
        for module in MODULES:
            shutil.copyfile(module, contents / ENVELOPE_PACKAGE / module.name)
    _replace_text(file, json.dumps(document, indent=2))
    config = contents / Path(original.config_file or "").name
    if config.is_file():
        _replace_text(config, _complete_config(config.read_bytes()))
    return original
