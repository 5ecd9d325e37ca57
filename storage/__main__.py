"""Copy the files of gs://BUCKET/FOLDER or of a local folder into another folder, and verify them."""

import argparse
import contextlib
import shutil
import sys
from pathlib import Path, PurePosixPath

import storage
from storage.files import StorageError


def main() -> None:
    """Copy the files, and print how many."""
    parser = argparse.ArgumentParser(prog="python -m storage", description=__doc__)
    parser.add_argument("uri", help="gs://BUCKET/FOLDER or a local folder")
    parser.add_argument("folder", type=Path, help="the target folder")
    args = parser.parse_args()
    uri = args.uri if args.uri.startswith("gs://") else str(Path(args.uri).resolve())
    try:
        count = fetch(uri, args.folder)
    except StorageError as error:
        sys.exit(f"storage: {error}")
    print(f"{args.folder}: {count} files of {args.uri}")


def fetch(uri: str, folder: Path) -> int:
    """Copy all files at a URI into `folder` and return their number; raise StorageError."""
    with contextlib.closing(storage.open_storage(uri, print)) as source:
        names = source.list_files()
        if not names:
            raise StorageError(f"{uri}: no files found")
        for name in names:
            if not is_inside(name):
                raise StorageError(f"{uri}: {name[:200]!r} is outside of the folder")
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            source.fetch(name, target)
            if target.is_symlink():  # storage links the files of a mounted folder
                original = target.resolve()
                target.unlink()
                shutil.copyfile(original, target)
    return len(names)


def is_inside(name: str) -> bool:
    """Return whether a file's name stays in its folder. Names of objects in a bucket are arbitrary."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


if __name__ == "__main__":
    main()
