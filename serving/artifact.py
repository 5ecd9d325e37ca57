"""What is served: the archive baked in, or what AIP_STORAGE_URI holds.

There it may be our weights, which then take the place of those in the archive baked in, or an
archive: one of this project's, or a stock .mar of torch-model-archiver's. Each becomes an
unpacked archive that TorchServe takes as it is.
"""

import contextlib
import dataclasses
import json
import lzma
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from serving import model_config, resources
from serving.archive import GOLDEN_REQUEST, PACKAGES, verify
from serving.errors import ArchiveError
from serving.stock import manifest
from serving.torchserve import TorchServeConfig
from storage import lazy
from storage.files import Storage

MODEL_NAME = "model"
"""Under this name an artifact is served; Google's prebuilt images take `model.mar` too."""
BACKEND_FILES = ("backend.json", "engine.json")
"""The file that names the backend for the network, today and in version 0.1. Weights may bring their own."""
SHA256_VARIABLE = "ARCHIVE_SHA256"
"""The variable with the SHA-256 that an archive in AIP_STORAGE_URI must have."""
MAX_FILES = 20_000
MAX_COMPRESSION_RATIO = 100
"""Deflate makes a thousand of one; of weights, two, and of text, ten."""
ENCRYPTED = 0x1
"""Of a zip entry's flags."""


class Artifact(NamedTuple):
    """Something that TorchServe can load."""

    path: Path
    """A .mar, or the folder of an unpacked one."""
    golden_request: bytes | None
    """The request that it is probed with; None where it carries none."""
    stock: bool = False
    """Whether the handler is the archive's own: it may not understand a batch of requests."""


class Selection(NamedTuple):
    """What of a storage's files is to be served."""

    archive: str | None
    """The one .mar."""
    others: list[str]
    """The weights' files; beside an archive, its golden request if there is one."""


def select_files(found: Iterable[str], needed: Iterable[str]) -> Selection:
    """Choose among the names of the files that a storage holds; raise ArchiveError.

    `needed` are the names of the files in the archive baked in that weights consist of.
    """
    names, needed = sorted(found), sorted(needed)
    if archives := _archives(names):
        if len(archives) > 1 and f"{MODEL_NAME}.mar" not in archives:
            raise ArchiveError(
                f"more than one archive, and none is {MODEL_NAME}.mar: {_list(archives)}"
            )
        archive = f"{MODEL_NAME}.mar" if f"{MODEL_NAME}.mar" in archives else archives[0]
        return Selection(archive, [name for name in names if name == GOLDEN_REQUEST])
    missing = [name for name in needed if name not in names]
    if missing:
        raise ArchiveError(
            "neither a .mar nor this model's weights: "
            f"{_list(missing)} missing among {_list(names)}"
        )
    return Selection(None, [name for name in names if _is_weights(name)])


def _archives(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.endswith(".mar") and "/" not in name]


def list_weights(archive: Path) -> list[str]:
    """Return the names of the files in an archive of ours that are its weights."""
    with manifest.open_archive(archive) as contents:
        return [
            name for name in contents.namelist() if _is_weights(name) and name not in BACKEND_FILES
        ]


def _is_weights(name: str) -> bool:
    path = PurePosixPath(name)
    # An object's name in a bucket may be anything: "..", too, and a path from the root.
    hidden = any(part.startswith(".") for part in path.parts)
    return not (
        hidden
        or path.is_absolute()
        or name.endswith("/")
        or path.suffix == ".py"
        or path.parts[0] in ("MAR-INF", *PACKAGES, "held-out")
        or name == GOLDEN_REQUEST
    )


def find_baked_in(folder: Path) -> Artifact:
    """Return the one archive in a folder; raise ArchiveError."""
    archives = sorted(folder.glob("*.mar"))
    if len(archives) != 1:
        raise ArchiveError(f"{folder}: expected one .mar, found {len(archives)}")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", archives[0].stem):
        raise ArchiveError(f"{archives[0].name}: expected a name of letters, digits, - and _")
    recorded = archives[0].with_suffix(".mar.sha256")
    if recorded.is_file():
        check_sha256(archives[0], recorded.read_text().split()[0], recorded.name)
    request, name = read_golden_request(archives[0]), manifest.read_manifest(archives[0]).name
    if name != archives[0].stem:  # TorchServe serves it by this name, not by the file's
        raise ArchiveError(f"{archives[0].name} was built as {name}.mar: give it that name again")
    return Artifact(archives[0], request)


def read_golden_request(archive: Path) -> bytes:
    """Return the request that an archive of ours carries to be probed with; raise ArchiveError."""
    manifest.read_manifest(archive)
    request = manifest.read_bytes(archive, GOLDEN_REQUEST)
    if request is None:
        raise ArchiveError(
            f"{archive} is not an archive of this project: no {GOLDEN_REQUEST} in it"
        )
    return request


def with_layout(config: TorchServeConfig, served: Artifact) -> TorchServeConfig:
    """Return the configuration with the layout for an artifact on this machine; raise ArchiveError."""
    tuned = manifest.read_bytes(served.path, str(model_config.CONFIG))
    layout = model_config.resolve_layout(
        tuned, resources.cores(), resources.memory_limit(), read_inference_ms(served.path)
    )
    if served.stock:
        # A handler of another's may answer only the first request of a batch.
        layout = layout._replace(batch_size=1)
    return dataclasses.replace(config, layout=layout)


def read_inference_ms(served: Path) -> float:
    """Return the measured milliseconds of a pass of one instance; 0 if they are not known."""
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
            raise ArchiveError(f"{name} is not what model.export writes: {error!r}") from error
    return 0


def fetch(storage: Storage, baked: Path, store: Path, sha256: str | None = None) -> Artifact:
    """Fetch what a storage holds and make it ready in STORE/model.

    Raises ArchiveError and files.StorageError. `baked` is an archive that has what weights alone
    do not; `sha256` (in hex) is that of the archive in the storage, None for any.
    """
    contents, incoming = store / MODEL_NAME, store / "fetched"
    with contextlib.closing(storage):
        found = storage.list_files()
        chosen = select_files(found, () if _archives(found) else list_weights(baked))
        if sha256 and not chosen.archive:
            raise ArchiveError(
                f"{SHA256_VARIABLE} is set, and there is no archive: {_list(sorted(found))}"
            )
        contents.mkdir(parents=True)
        incoming.mkdir()
        try:
            if chosen.archive:
                storage.fetch(chosen.archive, incoming / chosen.archive)
                if sha256:
                    check_sha256(incoming / chosen.archive, sha256, SHA256_VARIABLE)
                unpack(incoming / chosen.archive, contents)
                # The two together may fill /tmp, which is often memory.
                (incoming / chosen.archive).unlink()
            else:
                unpack(baked, contents)
                if not set(BACKEND_FILES).isdisjoint(chosen.others):
                    for name in BACKEND_FILES:  # of the weights baked in
                        (contents / name).unlink(missing_ok=True)
            for name in chosen.others:
                (contents / name).unlink(missing_ok=True)
                (contents / name).parent.mkdir(parents=True, exist_ok=True)
                storage.fetch(name, contents / name)
        except OSError as error:
            raise ArchiveError(f"cannot be laid out in {store}: {error}") from error
        finally:
            shutil.rmtree(incoming)
    try:
        if not chosen.archive:
            # The golden request belongs to the weights, and new ones have another.
            verify(contents)
        request = manifest.read_bytes(contents, GOLDEN_REQUEST)
        adapted = manifest.adapt(contents, MODEL_NAME)
    except OSError as error:
        raise ArchiveError(str(error)) from error
    return Artifact(contents, request, stock=adapted.handler != manifest.OURS)


def unpack(archive: Path, target: Path) -> None:
    """Unpack a .mar, every file's checksum seen to; raise ArchiveError."""
    with manifest.open_archive(archive) as contents:
        entries = contents.infolist()
        for entry in entries:
            _check_entry(archive.name, entry)
        _check_size(archive, entries, target)
        try:
            contents.extractall(target)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
            raise ArchiveError(f"{archive.name} is damaged: {error}") from error
        except (NotImplementedError, RecursionError) as error:
            raise ArchiveError(f"{archive.name} cannot be unpacked here: {error}") from error


def _check_entry(archive: str, entry: zipfile.ZipInfo) -> None:
    """Raise ArchiveError for what would not become a file in the archive's own folder."""
    # As it was written: zipfile has cut the name at a null byte, and turned \\ into / on Windows.
    path, kind = PurePosixPath(entry.orig_filename), stat.S_IFMT(entry.external_attr >> 16)
    said = f"{archive}: {ascii(entry.orig_filename)[:200]}"
    if path.is_absolute() or ".." in path.parts or {"\0", "\\"} & set(entry.orig_filename):
        raise ArchiveError(f"{said} points out of the archive")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ArchiveError(f"{said} is no file; links and devices are refused")
    if entry.flag_bits & ENCRYPTED:
        raise ArchiveError(f"{said} is encrypted")


def _check_size(archive: Path, entries: list[zipfile.ZipInfo], target: Path) -> None:
    """Raise ArchiveError for an archive that is made to fill a disk."""
    size = sum(entry.file_size for entry in entries)
    if len(entries) > MAX_FILES:
        raise ArchiveError(
            f"{archive.name} has {len(entries)} files, at most {MAX_FILES} are taken"
        )
    if size > MAX_COMPRESSION_RATIO * max(archive.stat().st_size, 1 << 20):
        raise ArchiveError(
            f"{archive.name} would unpack to {size >> 20} MiB, over {MAX_COMPRESSION_RATIO} times its size"
        )
    if size > (free := shutil.disk_usage(target).free):
        raise ArchiveError(
            f"{archive.name} unpacks to {size >> 20} MiB, {target} has room for {free >> 20}: "
            "give the container more memory, or a larger /tmp"
        )


def check_sha256(archive: Path, expected: str, said_by: str) -> None:
    """Raise ArchiveError for an archive with another SHA-256 (in hex)."""
    if (got := lazy.sha256(archive)) != expected:
        raise ArchiveError(f"{archive.name}: its SHA-256 is {got}, {said_by} says {expected}")


def _list(names: list[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown}, and {len(names) - 8} more" if len(names) > 8 else shown
