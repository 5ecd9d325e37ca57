"""Begin a model: copy an example, or write model.py for a TorchScript file or a Hugging Face folder.

python -m authoring.new flowers --from tabular
python -m authoring.new flowers --from model.pt --example request.json
python -m authoring.new flowers --from huggingface-folder/
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from authoring import huggingface, torchscript
from authoring.errors import NewModelError
from authoring.examples import read_example
from project import cli
from project.model_folder import (
    MAX_NAME_CHARS,
    MODELS,
    REQUIREMENTS,
    RESERVED,
    find_model,
    list_models,
)

NOT_COPIED = ("tests", "__pycache__", ".*", "*.pyc")
"""Files of an example that a new model does not get."""
RULE = f"2 to {MAX_NAME_CHARS} lowercase letters, digits and hyphens, and a letter first"


def main(arguments: list[str] | None = None) -> None:
    """Write the new folder, and print what to run next; exit with one line if that fails."""
    parser = argparse.ArgumentParser(
        prog="python -m authoring.new",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help=f"in model/, or the path of a folder: {RULE}")
    parser.add_argument(
        "--from",
        dest="source",
        default="",
        metavar="SOURCE",
        help=f"an example ({', '.join(list_models())}), a TorchScript file, or a Hugging Face folder",
    )
    text = "a picture, or a request as JSON: a body, an instance, or several requests"
    parser.add_argument("--example", type=Path, metavar="FILE", help=text)
    args = parser.parse_args(arguments)
    cli.run("authoring.new", lambda: _create_and_report(args))


def _create_and_report(args: argparse.Namespace) -> None:
    folder = find_target(args.name)
    notes = create(folder, args.source, args.example)
    model = find_model(str(folder))
    for note in notes:
        print(f"Note: {note}")
    print(f"\n{folder} is ready. Change its model.py, and requests.json to match. Next:\n")
    for target, does in (
        ("check", "run its requests, alone and together"),
        ("serve", "serve it on this machine"),
        ("deploy-endpoint", "deploy it to Vertex AI"),
    ):
        command = f"make {target} {model.selection}"
        print(f"  {command:44} # {does}")


def find_target(name: str) -> Path:
    """Return the folder of a new model; raise NewModelError if its name is invalid or it exists."""
    folder = Path(name) if "/" in name else MODELS / name
    if not name:
        raise NewModelError(f"NAME is not set; expected {RULE}")
    if not re.fullmatch(f"[a-z][a-z0-9-]{{1,{MAX_NAME_CHARS - 1}}}", folder.name):
        raise NewModelError(f"NAME={name}: expected {RULE}")
    if folder.name in RESERVED:
        raise NewModelError(f"NAME={name}: build/{folder.name} has other files; use another name")
    if folder.exists():
        raise NewModelError(f"{folder} exists already; use another NAME, or delete it")
    return folder


def create(folder: Path, source: str, example: Path | None) -> list[str]:
    """Write a new model's folder, or nothing if that fails; return notes. Raise NewModelError."""
    try:
        return _write(folder, source, example)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _write(folder: Path, source: str, example: Path | None) -> list[str]:
    if source in list_models():
        if example is not None:
            raise NewModelError("EXAMPLE= is for a TorchScript file or a Hugging Face folder")
        ignore = shutil.ignore_patterns(*NOT_COPIED)
        shutil.copytree(MODELS / source, folder, ignore=ignore)
        return []
    if not source or not Path(source).exists():
        found = f"FROM={source}: neither an example nor a file" if source else "FROM is not set"
        known = ", ".join([*list_models(), "a TorchScript file, or a Hugging Face folder"])
        deleted = (
            "" if list_models() else "; the deleted examples are still in git: git log -- model"
        )
        raise NewModelError(f"{found}; expected {known}{deleted}")
    write_model = torchscript.write_model if Path(source).is_file() else huggingface.write_model
    notes = write_model(folder, Path(source), read_example(example))
    return notes + fill_expected(folder)


def fill_expected(folder: Path) -> list[str]:
    """Check the model, and write what it predicts into requests.json; return the checks that fail.

    Raises NewModelError if it does not answer its requests.
    """
    if (folder / REQUIREMENTS).is_file():
        print(
            f"Installing {folder / REQUIREMENTS} for the checks, which may take minutes", flush=True
        )
    command = [sys.executable, "-m", "authoring.check", str(folder), "--write"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    results = re.findall(r"^FAIL  (.*(?:\n {6}.*)*)", done.stdout, re.MULTILINE)
    lines = [[line.strip() for line in result.splitlines()] for result in results]
    failed = [f"{check}: {'; '.join(details)}" for check, *details in lines]
    if "wrote the expected predictions" not in done.stdout:
        last_line = done.stderr.strip().rpartition("\n")[2]
        reason = failed[0] if failed else last_line.removeprefix("authoring.check: ")
        raise NewModelError(f"the model does not answer its requests: {reason}")
    return [f"make check fails: {each}" for each in failed]


if __name__ == "__main__":
    main()
