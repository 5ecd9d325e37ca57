"""Unpack a .mar or .tar.gz safely: reject entries outside its folder, archive bombs and damaged files."""

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from serving.errors import ArchiveError
from serving.stock import manifest
from storage import lazy

MAX_FILES = 20_000
MAX_COMPRESSION_RATIO = 100
"""Deflate reaches 1000; weights compress by 2, text by 10."""
ENCRYPTED_FLAG = 0x1
"""The bit of a zip entry's flags."""
GZIP_MAGIC = b"\x1f\x8b"


def unpack(archive: Path, target: Path) -> None:
    """Unpack an archive into an empty folder and check the CRC of every file; raise ArchiveError.

    A folder that contains the whole archive is left out.
    """
    try:
        if _is_gzip(archive):
            _unpack_tar(archive, target)
        else:
            _unpack_zip(archive, target)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError) as error:
        raise ArchiveError(f"{archive.name} is damaged: {error}; copy it again") from error
    except (NotImplementedError, RecursionError) as error:
        raise ArchiveError(f"{archive.name} cannot be unpacked: {error}") from error
    _remove_wrapper(target)
    inner = [file.name for file in sorted(target.rglob("*.mar")) if file.is_file()]
    if inner and not (target / manifest.MANIFEST).is_file():
        raise ArchiveError(f"{archive.name} contains {inner[0]}: unpack it, and use {inner[0]}")


def _is_gzip(archive: Path) -> bool:
    try:
        with archive.open("rb") as file:
            return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    except OSError:
        return False  # open_archive names the reason


def _unpack_zip(archive: Path, target: Path) -> None:
    with manifest.open_archive(archive) as contents:
        entries = contents.infolist()
        for entry in entries:
            _check_entry(archive.name, entry)
        _check_size(archive, len(entries), sum(entry.file_size for entry in entries), target)
        contents.extractall(target)  # noqa: S202  the entries were checked


def _unpack_tar(archive: Path, target: Path) -> None:
    count = size = 0
    with tarfile.open(archive, "r:gz") as contents:
        for entry in contents:
            label = f"{archive.name}: {ascii(entry.name)[:200]}"
            _check_path(label, entry.name)
            if not (entry.isfile() or entry.isdir()):
                raise _irregular(label)
            # The next entry is found only by decompressing this one.
            count, size = count + 1, size + entry.size
            _check_size(archive, count, size, target)
            path = target / entry.name
            (path if entry.isdir() else path.parent).mkdir(parents=True, exist_ok=True)
            if file := contents.extractfile(entry):
                with file, path.open("wb") as copy:
                    shutil.copyfileobj(file, copy)


def _check_entry(archive: str, entry: zipfile.ZipInfo) -> None:
    """Raise ArchiveError if an entry would not become a file within the target folder."""
    # The original name: zipfile cuts names at a null byte, and turns \\ into / on Windows.
    label = f"{archive}: {ascii(entry.orig_filename)[:200]}"
    kind = stat.S_IFMT(entry.external_attr >> 16)
    _check_path(label, entry.orig_filename)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _irregular(label)
    if entry.flag_bits & ENCRYPTED_FLAG:
        raise ArchiveError(f"{label} is encrypted")


def _check_path(label: str, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or {"\0", "\\"} & set(name):
        raise ArchiveError(f"{label} points outside the archive")


def _irregular(label: str) -> ArchiveError:
    return ArchiveError(f"{label} is not a regular file; links and devices are rejected")


def _check_size(archive: Path, count: int, size: int, target: Path) -> None:
    """Raise ArchiveError for an archive that would fill the disk."""
    if count > MAX_FILES:
        raise ArchiveError(f"{archive.name} has {count} files; the limit is {MAX_FILES}")
    if size > MAX_COMPRESSION_RATIO * max(archive.stat().st_size, 1 << 20):
        raise ArchiveError(
            f"{archive.name} would unpack to {size >> 20} MiB; the limit is {MAX_COMPRESSION_RATIO} times its size"
        )
    if size > (free := shutil.disk_usage(target).free):
        raise ArchiveError(
            f"{archive.name} unpacks to {size >> 20} MiB, but {target} has {free >> 20} MiB free: "
            "give the container more memory or a larger /tmp"
        )


def _remove_wrapper(target: Path) -> None:
    """Move the files of an archive up if they are in one folder, as torch-model-archiver packs a .tar.gz."""
    # macOS adds __MACOSX and hidden files.
    entries = [e for e in target.iterdir() if e.name != "__MACOSX" and not e.name.startswith(".")]
    if len(entries) != 1 or not (entries[0] / manifest.MANIFEST).is_file():
        return
    wrapper = entries[0].rename(target / ".wrapper")
    for entry in list(wrapper.iterdir()):
        entry.rename(target / entry.name)
    wrapper.rmdir()


def check_sha256(archive: Path, expected: str, source: str) -> None:
    """Raise ArchiveError if the SHA-256 (in hex) is not the one that `source` states."""
    if (actual := lazy.sha256(archive)) != expected:
        raise ArchiveError(f"{archive.name}: its SHA-256 is {actual}, but {source} has {expected}")
