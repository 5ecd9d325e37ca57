"""Lay the files of gs://BUCKET/FOLDER, or of a folder, into another folder, verified."""

import argparse
import contextlib
import shutil
import sys
from pathlib import Path, PurePosixPath

import storage
from storage.files import StorageError


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m storage", description=__doc__)
    parser.add_argument("uri", help="gs://BUCKET/FOLDER, or a folder")
    parser.add_argument("folder", type=Path, help="where they go")
    args = parser.parse_args()
    uri = args.uri if args.uri.startswith("gs://") else str(Path(args.uri).resolve())
    try:
        count = fetch(uri, args.folder)
    except StorageError as error:
        sys.exit(f"storage: {error}")
    print(f"{args.folder}: {count} files of {args.uri}")


def fetch(uri: str, folder: Path) -> int:
    """Lay all files there into `folder`; return how many. Raise NotFetched."""
    with contextlib.closing(storage.open_storage(uri, print)) as found:
        names = found.files()
        if not names:
            raise StorageError(f"{uri}: there is nothing")
        for name in names:
            if not inside(name):
                raise StorageError(f"{uri}: {name[:200]!r} points out of the folder")
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            found.fetch(name, target)
            if target.is_symlink():  # of a mounted folder, storage gives links
                source = target.resolve()
                target.unlink()
                shutil.copyfile(source, target)
    return len(names)


def inside(name: str) -> bool:
    """Say whether a file's name, which in a bucket may be anything, stays in the folder."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


if __name__ == "__main__":
    main()
