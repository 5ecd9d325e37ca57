"""Fetch, check and unpack what is served: the archives in the image, or AIP_STORAGE_URI.

The storage may contain weights, which replace those of the archive in the image, or archives of
this project or stock ones of torch-model-archiver. All become unpacked archives that TorchServe
loads.
"""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from serving import model_config
from serving.errors import ArchiveError
from serving.layout import choose_layout, read_machine
from serving.selection import (
    BACKEND_FILES,
    MODEL_NAME,
    Selection,
    check_name,
    list_required,
    name_golden_request,
    name_models,
    select_files,
    shorten,
)
from serving.stock import manifest
from serving.text_files import decode_text
from serving.torchserve_config import TorchServeConfig
from serving.unpacking import check_sha256, unpack
from serving.verification import ENTRY, GOLDEN_REQUEST, REQUESTS, verify
from storage.files import LogFunction, Storage

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


def find_baked_in(folder: Path) -> list[Artifact]:
    """Return the archives in a folder, after checks; raise ArchiveError."""
    archives = sorted(folder.glob("*.mar"))
    if not archives:
        raise ArchiveError(f"{folder}: expected a .mar, found none")
    return [_check_baked_in(archive) for archive in archives]


def _check_baked_in(archive: Path) -> Artifact:
    check_name(archive.stem, archive.name)
    recorded = archive.with_suffix(".mar.sha256")
    if recorded.is_file():
        check_sha256(archive, recorded.read_text().split()[0], recorded.name)
    name = manifest.read_manifest(archive).name
    if name != archive.stem:  # TorchServe uses the manifest's name, not the file's
        raise ArchiveError(f"{archive.name} was built as {name}.mar: rename it to {name}.mar")
    return open_archive(archive)


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

    Raises ArchiveError and LayoutError.
    """
    text = read_model_config(served)
    needs_cpu = bool(config.gpus) and served.stock and model_config.needs_cpu(text)
    if needs_cpu:
        config = dataclasses.replace(config, gpus=())
    size, machine = manifest.content_bytes(served.path), read_machine(config.gpus or ())
    if served.stock:
        layout = choose_layout(machine, model_bytes=size)
        layout, own_timeout_s = model_config.resolve_stock_settings(text, layout)
        if needs_cpu:
            layout = layout._replace(source=f"{layout.source} for the CPU, its deviceType")
    else:
        inference_ms = read_inference_ms(served.path)
        layout = model_config.resolve_layout(text, machine, inference_ms, size)
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
    """Fetch the only model of a storage into STORE/model, as `fetch_models` does.

    Raises ArchiveError, also if there are several archives, and files.StorageError.
    """
    served = fetch_models(storage, [baked], store, sha256, log)
    if len(served) > 1:
        names = [model.path.name for model in served]
        raise ArchiveError(
            f"several archives: {shorten(names)}; only the image serves them together (make run): here let the "
            f"folder end in the name of one, such as /{names[0]}.mar"
        )
    return served[0]


def fetch_models(
    storage: Storage, baked: Sequence[Path], store: Path, sha256: str | None, log: LogFunction
) -> list[Artifact]:
    """Fetch weights or an archive into STORE/model, or each of several archives into STORE/NAME.

    `baked` has the archives of the image: weights are combined with the only one. `sha256` (in hex) is that of the
    only archive in the storage, None for any; `log` gets the names of files that are not fetched.
    Raises ArchiveError and files.StorageError.
    """
    with contextlib.closing(storage):
        found = storage.list_files()
        selected = select_files(found, list_required(found, baked))
        archives = list(selected.archives)
        if sha256 and len(archives) != 1:
            reason = f"there are {len(archives)} archives" if archives else "there is no archive"
            raise ArchiveError(
                f"{SHA256_VARIABLE} is set, but {reason}: {shorten(archives or sorted(found))}"
            )
        if ignored := sorted(found.keys() - {*archives, *selected.others}):
            log(f"not fetched: {shorten(ignored)}")
        if len(archives) <= 1:
            return [_fetch_model(storage, selected, baked[0], store / MODEL_NAME, sha256)]
        served = []
        for name, archive in name_models(archives).items():
            golden = [file for file in selected.others if file == name_golden_request(name)]
            try:
                only = Selection((archive,), golden)
                served.append(_fetch_model(storage, only, baked[0], store / name, None))
            except ArchiveError as error:
                raise ArchiveError(f"model {name}: {error}") from error
        return served


def _fetch_model(
    storage: Storage, selected: Selection, baked: Path, contents: Path, sha256: str | None
) -> Artifact:
    """Fetch one model into a new folder, whose name becomes the model's."""
    (archive,), incoming = selected.archives or (None,), contents.parent / ".fetched"
    is_archive = bool(archive) or manifest.MANIFEST in selected.others
    contents.mkdir(parents=True)
    incoming.mkdir()
    try:
        if archive:
            storage.fetch(archive, incoming / archive)
            if sha256:
                check_sha256(incoming / archive, sha256, SHA256_VARIABLE)
            unpack(incoming / archive, contents)
            # Both together may fill /tmp, which is often in memory.
            (incoming / archive).unlink()
        elif not is_archive:
            unpack(baked, contents)
            if not set(BACKEND_FILES).isdisjoint(selected.others):
                for name in BACKEND_FILES:  # of the weights baked in
                    (contents / name).unlink(missing_ok=True)
        for name in selected.others:
            target = contents / (manifest.GOLDEN_REQUEST if archive else name)
            target.unlink(missing_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            storage.fetch(name, target)
    except OSError as error:
        raise ArchiveError(f"cannot write to {contents.parent}: {error}") from error
    finally:
        shutil.rmtree(incoming)
    try:
        if not is_archive:
            _verify_weights(contents, selected.others)
        manifest.adapt(contents, contents.name)
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
