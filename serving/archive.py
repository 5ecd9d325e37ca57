"""Build a .mar of the handler, a model and its weights, which any TorchServe 0.12 can serve.

The archive contains what is needed beside torch: the packages `handler`, `task` and `model`
(without its training), and the files of the weights folder. It is written only if the model
gives its golden instance the expected prediction.
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
HANDLER_FILE = ROOT / "handler" / "vertex_handler.py"
GOLDEN_REQUEST = "golden-request.json"
"""The file in the archive with the request for health probes."""
EXCLUDED = shutil.ignore_patterns(
    "__pycache__", "train", "trained", "export", HANDLER_FILE.name, "held-out", ".*"
)

PACKAGES = ("handler", "task", "model")
"""The packages at the root of an archive of this project, beside the weights."""


def build(name: str, model: Path, weights: Path, store: Path) -> Path:
    """Write STORE/NAME.mar and return its path; raise ArchiveError if it would not work.

    `model` is a package folder whose `task.py` defines `load`; `weights` is the folder with the
    files for `load`, which are put at the archive's root.
    """
    for path in (model / "task.py", weights):
        if not path.exists():
            raise ArchiveError(f"{path} does not exist")
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="archive-") as scratch:
        contents = Path(scratch) / "contents"
        shutil.copytree(weights, contents, ignore=EXCLUDED)
        for package in PACKAGES:
            if (contents / package).exists():
                raise ArchiveError(
                    f"{weights / package}: the name is used by a package of the archive; rename it"
                )
            source = model if package == "model" else ROOT / package
            shutil.copytree(source, contents / package, ignore=EXCLUDED)
        verify(contents)
        _pack(name, contents, Path(scratch))
        # Replaced in one step, so that a server never reads an incomplete archive.
        target = store / f"{name}.mar"
        shutil.copyfile(Path(scratch) / target.name, target.with_suffix(".part"))
        os.replace(target.with_suffix(".part"), target)
    return target


def verify(contents: Path) -> None:
    """Check the model's golden prediction and write its golden request into the contents.

    The contents are imported in isolation. Raises ArchiveError if the prediction is wrong.
    """
    program = (
        "import json, pathlib, torch\n"
        "from handler import golden\n"
        "from model.task import load\n"
        "task = load(pathlib.Path('.'), torch.device('cpu'))\n"
        "golden.check(task)\n"
        f"pathlib.Path({GOLDEN_REQUEST!r}).write_text(json.dumps(golden.request(task)))\n"
    )
    # -I: only the archive's contents and the installed packages can be imported.
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
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise ArchiveError(f"the model fails its golden instance: {reason}")


def _pack(name: str, contents: Path, target: Path) -> None:
    archiver = [
        *(sys.executable, "-m", "model_archiver.model_packaging", "--force"),
        *(f"--model-name={name}", "--version=1.0", f"--handler={HANDLER_FILE}"),
        *(f"--extra-files={contents}", f"--export-path={target}"),
    ]
    done = subprocess.run(archiver, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise ArchiveError(f"torch-model-archiver failed:\n{done.stdout}{done.stderr}")


def main() -> None:
    """Build the archive; exit with the error if that fails."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.archive", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--name", default="digits", help="name of the archive (default: %(default)s)")
    text = "folder of the package with task.py (default: model)"
    add("--model", type=Path, default=ROOT / "model", help=text)
    text = "folder of the weights (default: %(default)s)"
    add("--weights", type=Path, default="build/model", help=text)
    text = "folder for the archive (default: %(default)s)"
    add("--store", type=Path, default="build/model-store", help=text)
    args = parser.parse_args()
    try:
        path = build(args.name, args.model, args.weights, args.store)
    except ArchiveError as error:
        sys.exit(f"serving.archive: {error}")
    size = f"{path.stat().st_size / 1024:.0f} KiB"
    print(f"{path}  {size}; the golden instance gets the expected prediction")


if __name__ == "__main__":
    main()
