"""Select the files of a storage that are served: one archive or several, weights, or an unpacked archive."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from serving import model_config
from serving.errors import ArchiveError
from serving.stock import manifest
from serving.verification import GOLDEN_REQUEST, PACKAGES, REQUESTS

MODEL_NAME = "model"
"""The name of a model from storage, unless there are several; Google's prebuilt images expect `model.mar`."""
BACKEND_FILES = ("backend.json", "engine.json")
"""The file that names the network's backend, now and in version 0.1. Weights may bring their own."""
OPTIONAL = (REQUESTS, "requirements.txt", "schema.json", model_config.CONFIG.name, *BACKEND_FILES)
"""Files at an archive's root that are not weights. Weights may bring their own."""
MODEL_FILES = (".safetensors", ".bin", ".pt", ".pth")
"""The suffixes of weights and models that an archive may contain."""
TAR_SUFFIXES = (".tar.gz", ".tgz")
ARCHIVE_SUFFIXES = (".mar", *TAR_SUFFIXES)
OTHER_ARCHIVES = {
    ".war": "a workflow archive of TorchServe; workflows are not served: serve the .mar of each of its models",
    ".zip": f"expected a .mar; if it is one, rename it to {MODEL_NAME}.mar, else unpack it and store the .mar in it",
}
"""The advice for files that cannot be served, by suffix."""
MAX_NAME_CHARS = 48
"""The name of one of several models is part of a socket's path, which Linux limits to 107 bytes."""


class Selection(NamedTuple):
    """The files of a storage that are served."""

    archives: tuple[str, ...]
    """The names of .mar or .tar.gz files; empty if weights or the files of an unpacked archive are served."""
    others: list[str]
    """The weights, or the files of an unpacked archive; beside archives, their golden requests."""


def select_files(found: Iterable[str], required: Iterable[str]) -> Selection:
    """Select from the names of a storage's files; raise ArchiveError.

    `required` are the names of the weights in the archive of the image.
    """
    names, required = sorted(found), sorted(required)
    if archives := _filter_archives(names):
        golden = [GOLDEN_REQUEST]
        if len(archives) > 1:
            golden = [name_golden_request(model) for model in name_models(archives)]
        return Selection(tuple(archives), [name for name in names if name in golden])
    if manifest.MANIFEST in names:
        return Selection((), [name for name in names if _is_visible_file(name)])
    missing = [name for name in required if name not in names]
    if missing:
        if len(missing) == len(required) and (reason := _describe_others(names)):
            raise ArchiveError(reason)
        raise ArchiveError(
            f"found neither a .mar nor this model's weights: {shorten(missing)} missing in {shorten(names)}"
        )
    return Selection((), [name for name in names if _is_weights(name)])


def name_models(archives: Iterable[str]) -> dict[str, str]:
    """Return the archive of each model by its name, which is the file's without the suffix; raise ArchiveError."""
    models: dict[str, str] = {}
    for archive in sorted(archives):
        suffix = next(suffix for suffix in ARCHIVE_SUFFIXES if archive.lower().endswith(suffix))
        name = archive[: -len(suffix)]
        check_name(name, archive)
        if name in models:
            raise ArchiveError(
                f"{models[name]} and {archive} are both the model {name}: rename one"
            )
        models[name] = archive
    return models


def check_name(name: str, archive: str) -> None:
    """Raise ArchiveError unless a model's name can be part of a path."""
    if not re.fullmatch(f"[A-Za-z0-9_-]{{1,{MAX_NAME_CHARS}}}", name):
        raise ArchiveError(
            f"{archive}: the name may contain only letters, digits, - and _, at most {MAX_NAME_CHARS}: rename it"
        )


def name_golden_request(model: str) -> str:
    """Return the name of the file beside several archives with the golden request of one of them."""
    return f"{model}.{GOLDEN_REQUEST}"


def _filter_archives(names: Iterable[str]) -> list[str]:
    """Return the names of the .mar files, else of the .tar.gz files, unless these are beside weights."""
    files = [name for name in names if "/" not in name and not name.startswith(".")]
    archives = [name for name in files if name.lower().endswith(".mar")]
    if archives or any(name.lower().endswith(MODEL_FILES) for name in files):
        return archives
    return [name for name in files if name.lower().endswith(TAR_SUFFIXES)]


def _describe_others(names: list[str]) -> str | None:
    """Say what files that cannot be served are, and what to do with them; None if they are not known."""
    models = [name for name in names if name.lower().endswith(MODEL_FILES)]
    if "config.json" in names and models:
        return (
            f"this is a Hugging Face folder ({shorten(['config.json', *models])}), not an archive: make new "
            "NAME=my-model FROM=FOLDER writes a model folder that serves it"
        )
    for name in names:
        path, file = PurePosixPath(name), name.lower()
        if name.endswith(f"/{manifest.MANIFEST}"):
            folder = path.parent.parent
            return f"{folder} is an unpacked archive in a subfolder: let the URI end in /{folder}"
        if "/" in name and file.endswith((".mar", *TAR_SUFFIXES)):
            return f"{name} is in a subfolder: let the URI end in /{path.parent}"
        for suffix, advice in OTHER_ARCHIVES.items():
            if file.endswith(suffix):
                return f"{name}: {advice}"
    if models:
        return (
            f"{shorten(models)}: a model without an archive; pack it with torch-model-archiver, or, if it is "
            f"TorchScript, make new NAME=my-model FROM={models[0]} writes a model folder that serves it"
        )
    return None


def list_required(found: Iterable[str], baked: Sequence[Path]) -> list[str]:
    """Return the names of the weights that the storage must contain; raise ArchiveError."""
    names = sorted(found)
    if _filter_archives(names) or manifest.MANIFEST in names:
        return []
    try:
        return _list_weights_of_only(baked)
    except ArchiveError:
        if reason := _describe_others(names):
            raise ArchiveError(reason) from None
        raise


def _list_weights_of_only(archives: Sequence[Path]) -> list[str]:
    if len(archives) > 1:
        names = shorten([archive.stem for archive in archives])
        raise ArchiveError(
            f"found no .mar; weights replace those of the only model of an image, and this one has {names}"
        )
    return list_weights(archives[0])


def list_weights(archive: Path) -> list[str]:
    """Return the names of the weights in an archive of this project."""
    with manifest.open_archive(archive) as contents:
        weights = filter(_is_weights, contents.namelist())
        return [name for name in weights if name not in OPTIONAL]


def _is_visible_file(name: str) -> bool:
    # An object in a bucket may have any name, including ".." and an absolute path.
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") for part in path.parts)
    return not (hidden or path.is_absolute() or name.endswith("/"))


def _is_weights(name: str) -> bool:
    path = PurePosixPath(name)
    return _is_visible_file(name) and not (
        path.suffix in (".py", ".whl")
        or path.parts[0] in ("MAR-INF", *PACKAGES, "held-out", "held-out.json")
        or name in (GOLDEN_REQUEST, "schema.json", "requirements.txt")
    )


def shorten(names: list[str]) -> str:
    """Return at most eight names for a message."""
    shown = ", ".join(names[:8])
    return f"{shown}, and {len(names) - 8} more" if len(names) > 8 else shown
