"""Pack the handler, a model and its weights into a .mar that any TorchServe 0.12 can serve.

The archive carries what it needs beside torch: the handler package, the task package, the
model package without its training, and the weights folder's files. It is served once here,
in this process, before it is written: a model that cannot answer its golden instance is
no archive.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from serving.errors import ArchiveError

ROOT = Path(__file__).resolve().parent.parent
ENTRY = ROOT / "handler" / "vertex_handler.py"
GOLDEN_REQUEST = "golden-request.json"
"""A file in the archive: a request to probe the served model with."""
LEFT_OUT = shutil.ignore_patterns(
    "__pycache__", "train", "trained", "export", ENTRY.name, "held-out", ".*"
)

PACKAGES = ("handler", "task", "model")
"""What an archive of ours has at its root beside the weights."""


def build(name: str, model: Path, weights: Path, store: Path) -> Path:
    """Write STORE/NAME.mar and return its path; raise ArchiveError where it would not serve.

    `model` is a package folder whose `task.py` has `load`; `weights` is the folder that
    `load` is given, its files laid at the archive's root.
    """
    for needed in (model / "task.py", weights):
        if not needed.exists():
            raise ArchiveError(f"{needed} is missing")
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="archive-") as scratch:
        contents = Path(scratch) / "contents"
        shutil.copytree(weights, contents, ignore=LEFT_OUT)
        for package in PACKAGES:
            if (contents / package).exists():
                raise ArchiveError(f"{weights / package}: the archive has a package of this name")
            source = model if package == "model" else ROOT / package
            shutil.copytree(source, contents / package, ignore=LEFT_OUT)
        verify(contents)
        _pack(name, contents, Path(scratch))
        # Moved in one step, so that a server never reads half an archive.
        target = store / f"{name}.mar"
        shutil.copyfile(Path(scratch) / target.name, target.with_suffix(".part"))
        os.replace(target.with_suffix(".part"), target)
    return target


def verify(contents: Path) -> None:
    """Load an archive's contents by themselves and keep their golden request beside them.

    Raises ArchiveError where the model does not answer its golden instance.
    """
    program = (
        "import json, pathlib, torch\n"
        "from handler import golden\n"
        "from model.task import load\n"
        "task = load(pathlib.Path('.'), torch.device('cpu'))\n"
        "golden.check(task)\n"
        f"pathlib.Path({GOLDEN_REQUEST!r}).write_text(json.dumps(golden.request(task)))\n"
    )
    # -I and a folder of its own: nothing but the archive's contents and the installed packages.
    isolated = f"import sys; sys.path.insert(0, '.'); sys.dont_write_bytecode = True\n{program}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", isolated],
        cwd=contents,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip() or "no word on why").splitlines()[-1]
        raise ArchiveError(f"the model does not answer its golden instance: {reason}")


def _pack(name: str, contents: Path, target: Path) -> None:
    archiver = [
        *(sys.executable, "-m", "model_archiver.model_packaging", "--force"),
        *(f"--model-name={name}", "--version=1.0", f"--handler={ENTRY}"),
        *(f"--extra-files={contents}", f"--export-path={target}"),
    ]
    done = subprocess.run(archiver, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise ArchiveError(f"torch-model-archiver failed:\n{done.stdout}{done.stderr}")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.archive", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--name", default="digits", help="of the archive (%(default)s)")
    parser.add_argument("--model", type=Path, default=ROOT / "model", help="package with task.py")
    parser.add_argument("--weights", type=Path, default="build/model", help="(%(default)s)")
    parser.add_argument("--store", type=Path, default="build/model-store", help="(%(default)s)")
    args = parser.parse_args()
    try:
        path = build(args.name, args.model, args.weights, args.store)
    except ArchiveError as error:
        sys.exit(f"serving.archive: {error}")
    print(f"{path}  {path.stat().st_size / 1024:.0f} KiB, answers its golden instance")


if __name__ == "__main__":
    main()
