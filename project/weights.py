"""Make a model's weights with its own program, train.py or fetch.py: `python -m project.weights`, or make model.

The program is run as `python -m train --out FOLDER`, with the model's folder and this project on the path. It is a
module, or a package with a __main__.py.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

from project import cli
from project.environment import find_python
from project.locks import hold_lock
from project.model_folder import ENTRY, Model, add_model_option, find_model

ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = (".bin", ".gguf", ".npz", ".onnx", ".pt", ".pth", ".safetensors")
"""Files that count as weights: if the model's folder has one, train.py only runs when it is asked to."""
RECORD = ".made-by.json"
"""The file beside the weights that describes the program that made them. It is not packed."""


class WeightsError(cli.ProjectError):
    """The weights cannot be made. The text says why."""


def find_program(model: Model) -> str | None:
    """Return the name of the program that makes the weights, train or fetch; None if there is none."""
    for name in ("train", "fetch"):
        if any((model.path / file).is_file() for file in (f"{name}.py", f"{name}/__main__.py")):
            return name
    return None


def are_missing(model: Model) -> bool:
    """Return whether the model has a program that makes its weights, and neither its folder nor build/ has any.

    Weights that another fetch.py copied do not count. Raises WeightsError for those of another folder with
    the same name. A ready archive has its own weights.
    """
    if model.is_archive:
        return False
    made = model.weights / RECORD
    record, current = json.loads(made.read_text()) if made.is_file() else {}, _describe(model)
    other = ROOT / record.get("folder", current["folder"])
    if (other / ENTRY).is_file() and not other.samefile(model.path):
        raise WeightsError(
            f"{model.weights} has the weights of {record['folder']}: rename one of the two folders, "
            f"or delete {model.weights}"
        )
    program = find_program(model)
    if program is None:
        return False
    if model.weights.is_dir() and any(model.weights.iterdir()):
        return (
            program == "fetch" and record.get("program", current["program"]) != current["program"]
        )
    return not any(file.suffix in SUFFIXES for file in model.path.rglob("*"))


def _describe(model: Model) -> dict[str, str]:
    """Return what identifies the program of a model: its hash, and the folder relative to this project."""
    file = model.path / f"{find_program(model)}.py"
    program = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
    return {"program": program, "folder": os.path.relpath(model.path.resolve(), ROOT)}


def make_weights(model: Model, arguments: list[str]) -> None:
    """Run the model's program and replace build/NAME/weights by what it writes; raise WeightsError."""
    program = find_program(model)
    if program is None:
        raise WeightsError(f"{model.path} has neither train.py nor fetch.py")
    path = os.pathsep.join([str(model.path.resolve()), str(ROOT)])
    new, python = model.weights.with_name("weights.new"), find_python(model)
    with hold_lock(model.build / "weights.lock"):
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        command = [str(python), "-m", program, "--out", str(new), *arguments]
        print(f"Making the weights of {model.name}: {program}", flush=True)
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False)
        if done.returncode != 0:
            raise WeightsError(f"{model.path}/{program} failed; the weights are as they were")
        (new / RECORD).write_text(json.dumps(_describe(model)))
        shutil.rmtree(model.weights, ignore_errors=True)
        new.rename(model.weights)


def main() -> None:
    """Make the weights; exit with the error if that fails."""
    parser = argparse.ArgumentParser(
        prog="python -m project.weights",
        description=__doc__.splitlines()[0],
        epilog="All other options are those of the model's program.",
        allow_abbrev=False,
    )
    add_model_option(parser)
    args, others = parser.parse_known_args()
    cli.run("project.weights", lambda: make_weights(find_model(args.model), others))


if __name__ == "__main__":
    main()
