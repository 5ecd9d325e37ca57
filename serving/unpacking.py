"""Unpack a .mar safely: reject entries outside its folder, archive bombs and damaged files."""

import lzma
import shutil
import stat
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


def unpack(archive: Path, target: Path) -> None:
    """Unpack a .mar and check the CRC of every file; raise ArchiveError."""
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
            raise ArchiveError(f"{archive.name} cannot be unpacked: {error}") from error


def _check_entry(archive: str, entry: zipfile.ZipInfo) -> None:
    """Raise ArchiveError if an entry would not become a file within the target folder."""
    # The original name: zipfile cuts names at a null byte, and turns \\ into / on Windows.
    path, kind = PurePosixPath(entry.orig_filename), stat.S_IFMT(entry.external_attr >> 16)
    label = f"{archive}: {ascii(entry.orig_filename)[:200]}"
    if path.is_absolute() or ".." in path.parts or {"\0", "\\"} & set(entry.orig_filename):
        raise ArchiveError(f"{label} points outside the archive")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ArchiveError(f"{label} is not a regular file; links and devices are rejected")
    if entry.flag_bits & ENCRYPTED_FLAG:
        raise ArchiveError(f"{label} is encrypted")


def _check_size(archive: Path, entries: list[zipfile.ZipInfo], target: Path) -> None:
    """Raise ArchiveError for an archive that would fill the disk."""
    size = sum(entry.file_size for entry in entries)
    if len(entries) > MAX_FILES:
        raise ArchiveError(f"{archive.name} has {len(entries)} files; the limit is {MAX_FILES}")
    if size > MAX_COMPRESSION_RATIO * max(archive.stat().st_size, 1 << 20):
        raise ArchiveError(
            f"{archive.name} would unpack to {size >> 20} MiB; the limit is {MAX_COMPRESSION_RATIO} times its size"
        )
    if size > (free := shutil.disk_usage(target).free):
        raise ArchiveError(
            f"{archive.name} unpacks to {size >> 20} MiB, but {target} has {free >> 20} MiB free: "
            "give the container more memory or a larger /tmp"
        )


def check_sha256(archive: Path, expected: str, source: str) -> None:
    """Raise ArchiveError if the SHA-256 (in hex) is not the one that `source` states."""
    if (actual := lazy.sha256(archive)) != expected:
        raise ArchiveError(f"{archive.name}: its SHA-256 is {actual}, but {source} has {expected}")
