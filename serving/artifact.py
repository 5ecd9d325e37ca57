"""Select, fetch, check and unpack what is served: the archive in the image, or AIP_STORAGE_URI.

The storage may contain weights, which replace those of the archive in the image, or an archive:
one of this project, or a stock one of torch-model-archiver. All become an unpacked archive that
TorchServe loads.
"""

import contextlib
import dataclasses
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from serving import model_config, resources
from serving.errors import ArchiveError
from serving.layout import choose_layout
from serving.stock import manifest
from serving.text_files import decode_text
from serving.torchserve import TorchServeConfig
from serving.unpacking import check_sha256, unpack
from serving.verification import ENTRY, GOLDEN_REQUEST, PACKAGES, REQUESTS, verify
from storage.files import LogFunction, Storage

MODEL_NAME = "model"
"""The name of a model from storage; Google's prebuilt images also expect `model.mar`."""
BACKEND_FILES = ("backend.json", "engine.json")
"""The file that names the network's backend, now and in version 0.1. Weights may bring their own."""
OPTIONAL = (REQUESTS, "requirements.txt", "schema.json", model_config.CONFIG.name, *BACKEND_FILES)
"""Files at an archive's root that are not weights. Weights may bring their own."""
MODEL_FILES = (".safetensors", ".bin", ".pt", ".pth")
"""The suffixes of weights and models that an archive may contain."""
TAR_SUFFIXES = (".tar.gz", ".tgz")
OTHER_ARCHIVES = {
    ".war": "a workflow archive of TorchServe; workflows are not served: serve the .mar of each of its models",
    ".zip": f"expected a .mar; if it is one, rename it to {MODEL_NAME}.mar, else unpack it and store the .mar in it",
}
"""The advice for files that cannot be served, by suffix."""
OLD_REQUEST = "golden.json"
"""The request and the prediction of weights of version 0.1, in place of requests.json."""
SHA256_VARIABLE = "ARCHIVE_SHA256"
"""The variable with the expected SHA-256 of the archive in AIP_STORAGE_URI."""


class Artifact(NamedTuple):
    """A model that TorchServe can load."""

    path: Path
    """A .mar, or the folder of an unpacked one."""
    golden_request: bytes | None
    """The request for health probes; None if the archive has none."""
    stock: bool = False
    """Whether the handler is the archive's own, which may not support a batch of requests."""


class Selection(NamedTuple):
    """The files of a storage that are served."""

    archive: str | None
    """The name of the .mar or .tar.gz; None if weights or the files of an unpacked archive are served."""
    others: list[str]
    """The weights, or the files of an unpacked archive; beside an archive, its golden request if there is one."""


def select_files(found: Iterable[str], required: Iterable[str]) -> Selection:
    """Select from the names of a storage's files; raise ArchiveError.

    `required` are the names of the weights in the archive of the image.
    """
    names, required = sorted(found), sorted(required)
    if archives := _filter_archives(names):
        named = [name for name in archives if name.lower().startswith(f"{MODEL_NAME}.")]
        if len(archives) > 1 and len(named) != 1:
            raise ArchiveError(f"several archives, but no {MODEL_NAME}.mar: {_shorten(archives)}")
        archive = (named or archives)[0]
        return Selection(archive, [name for name in names if name == GOLDEN_REQUEST])
    if manifest.MANIFEST in names:
        return Selection(None, [name for name in names if _is_visible_file(name)])
    missing = [name for name in required if name not in names]
    if missing:
        if len(missing) == len(required) and (reason := _describe_others(names)):
            raise ArchiveError(reason)
        raise ArchiveError(
            f"found neither a .mar nor this model's weights: {_shorten(missing)} missing in {_shorten(names)}"
        )
    return Selection(None, [name for name in names if _is_weights(name)])


def _filter_archives(names: Iterable[str]) -> list[str]:
    """Return the names of the .mar files, else of the .tar.gz files, unless these are beside weights."""
    files = [name for name in names if "/" not in name]
    archives = [name for name in files if name.lower().endswith(".mar")]
    if archives or any(name.lower().endswith(MODEL_FILES) for name in files):
        return archives
    return [name for name in files if name.lower().endswith(TAR_SUFFIXES)]


def _describe_others(names: list[str]) -> str | None:
    """Say what files that cannot be served are, and what to do with them; None if they are not known."""
    models = [name for name in names if name.lower().endswith(MODEL_FILES)]
    if "config.json" in names and models:
        return (
            f"this is a Hugging Face folder ({_shorten(['config.json', *models])}), not an archive: make new "
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
            f"{_shorten(models)}: a model without an archive; pack it with torch-model-archiver, or, if it is "
            f"TorchScript, make new NAME=my-model FROM={models[0]} writes a model folder that serves it"
        )
    return None


def _list_required(found: Iterable[str], baked: Path) -> list[str]:
    """Return the names of the weights that the storage must contain; raise ArchiveError."""
    names = sorted(found)
    if _filter_archives(names) or manifest.MANIFEST in names:
        return []
    try:
        return list_weights(baked)
    except ArchiveError:
        if reason := _describe_others(names):
            raise ArchiveError(reason) from None
        raise


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


def find_baked_in(folder: Path) -> Artifact:
    """Return the only archive in a folder, after checks; raise ArchiveError."""
    archives = sorted(folder.glob("*.mar"))
    if len(archives) != 1:
        raise ArchiveError(f"{folder}: expected one .mar, found {len(archives)}")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", archives[0].stem):
        raise ArchiveError(
            f"{archives[0].name}: the name may contain only letters, digits, - and _"
        )
    recorded = archives[0].with_suffix(".mar.sha256")
    if recorded.is_file():
        check_sha256(archives[0], recorded.read_text().split()[0], recorded.name)
    name = manifest.read_manifest(archives[0]).name
    if name != archives[0].stem:  # TorchServe uses the manifest's name, not the file's
        raise ArchiveError(f"{archives[0].name} was built as {name}.mar: rename it to {name}.mar")
    return open_archive(archives[0])


def open_archive(archive: Path) -> Artifact:
    """Return an archive of this project, or a stock one that was adapted; raise ArchiveError."""
    found = manifest.read_manifest(archive)
    if not (found.is_project or found.is_adapted):
        raise ArchiveError(
            f"{archive} is a stock archive: serve it with MODEL={archive.name}, or as AIP_STORAGE_URI (STORAGE=)"
        )
    return Artifact(archive, read_golden_request(archive), stock=not found.is_project)


def read_golden_request(archive: Path) -> bytes | None:
    """Return the request for health probes of an archive, None if it has none; raise ArchiveError.

    One that was beside the archive replaces the one that this project wrote into it.
    """
    names = [manifest.GOLDEN_REQUEST]
    if manifest.read_manifest(archive).is_project:
        names.append(GOLDEN_REQUEST)
    for name in names:
        if (request := manifest.read_bytes(archive, name)) is not None:
            return decode_text(request).encode()
    return None


def apply_model_config(config: TorchServeConfig, served: Artifact) -> TorchServeConfig:
    """Return the configuration with the artifact's layout on this machine and its own time limit.

    Raises ArchiveError.
    """
    text = read_model_config(served)
    memory = resources.memory_limit() or resources.physical_memory()
    size, cores = manifest.content_bytes(served.path), resources.cores()
    if served.stock:
        layout = choose_layout(cores, memory, model_bytes=size)
        layout, own_timeout_s = model_config.resolve_stock_settings(text, layout)
    else:
        inference_ms = read_inference_ms(served.path)
        layout = model_config.resolve_layout(text, cores, memory, inference_ms, size)
        own_timeout_s = model_config.read_response_timeout(text)
    return dataclasses.replace(
        config, layout=layout, response_timeout_s=own_timeout_s or config.response_timeout_s
    )


def read_model_config(served: Artifact) -> bytes | None:
    """Return model-config.yaml of an archive, which a stock archive's manifest may name otherwise."""
    if served.stock:
        name = manifest.read_manifest(served.path).config_file
        return manifest.read_bytes(served.path, name) if name else None
    for path in (model_config.CONFIG, model_config.OLD_CONFIG):
        if text := manifest.read_bytes(served.path, str(path)):
            return text
    return None


def read_inference_ms(served: Path) -> float:
    """Return the measured time of one instance on one thread; 0 if it is unknown."""
    for name in BACKEND_FILES:
        text = manifest.read_bytes(served, name)
        if text is None:
            continue
        try:
            choice = json.loads(text)
            if name == BACKEND_FILES[0]:
                times = choice["figures"]["backends"][choice["backend"]]["median_ms"]
            else:
                times = choice["figures"]["engines"][choice["engine"]]["milliseconds"]
            return float(times["1"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            reason = f"{name} is invalid: {error!r}; write it with: make export"
            raise ArchiveError(reason) from error
    return 0


def fetch(
    storage: Storage,
    baked: Path,
    store: Path,
    sha256: str | None = None,
    log: LogFunction = lambda _: None,
) -> Artifact:
    """Fetch weights or an archive into STORE/model, ready for TorchServe.

    `baked` is the archive that weights are combined with; `sha256` (in hex) is that of the
    archive in the storage, None for any; `log` gets the names of files that are not weights.
    Raises ArchiveError and files.StorageError.
    """
    contents, incoming = store / MODEL_NAME, store / "fetched"
    with contextlib.closing(storage):
        found = storage.list_files()
        selected = select_files(found, _list_required(found, baked))
        is_archive = bool(selected.archive) or manifest.MANIFEST in selected.others
        if sha256 and not selected.archive:
            raise ArchiveError(
                f"{SHA256_VARIABLE} is set, but there is no archive: {_shorten(sorted(found))}"
            )
        if ignored := sorted(found.keys() - {selected.archive, *selected.others}):
            log(f"not fetched: {_shorten(ignored)}")
        contents.mkdir(parents=True)
        incoming.mkdir()
        try:
            if selected.archive:
                storage.fetch(selected.archive, incoming / selected.archive)
                if sha256:
                    check_sha256(incoming / selected.archive, sha256, SHA256_VARIABLE)
                unpack(incoming / selected.archive, contents)
                # Both together may fill /tmp, which is often in memory.
                (incoming / selected.archive).unlink()
            elif not is_archive:
                unpack(baked, contents)
                if not set(BACKEND_FILES).isdisjoint(selected.others):
                    for name in BACKEND_FILES:  # of the weights baked in
                        (contents / name).unlink(missing_ok=True)
            for name in selected.others:
                target = contents / (manifest.GOLDEN_REQUEST if selected.archive else name)
                target.unlink(missing_ok=True)
                target.parent.mkdir(parents=True, exist_ok=True)
                storage.fetch(name, target)
        except OSError as error:
            raise ArchiveError(f"cannot write to {store}: {error}") from error
        finally:
            shutil.rmtree(incoming)
    try:
        if not is_archive:
            _verify_weights(contents, selected.others)
        manifest.adapt(contents, MODEL_NAME)
        return open_archive(contents)
    except OSError as error:
        raise ArchiveError(str(error)) from error


def _verify_weights(contents: Path, weights: list[str]) -> None:
    """Run the requests with other weights, and write their golden request; raise ArchiveError."""
    old = contents / OLD_REQUEST
    if OLD_REQUEST in weights and REQUESTS not in weights and (contents / ENTRY).is_file():
        (contents / REQUESTS).write_text(f"[{old.read_text()}, {old.read_text()}]")
        weights = [*weights, REQUESTS]
    try:
        verify(contents)
    except ArchiveError as error:
        if REQUESTS in weights or not (contents / ENTRY).is_file():
            raise
        hint = (
            f"these are the requests of the archive: put the {REQUESTS} of the weights beside them"
        )
        raise ArchiveError(f"{error}; {hint}") from error


def _shorten(names: list[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown}, and {len(names) - 8} more" if len(names) > 8 else shown
