"""Run the requests of an archive of this project with its own code, in a process of its own.

As a program: verify a .mar with the packages of this Python, as the Dockerfile does in the image.
"""

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from serving.errors import ArchiveError
from serving.stock import manifest
from serving.unpacking import unpack

GOLDEN_REQUEST = "golden-request.json"
"""The file in an archive with the request for health probes."""
REQUESTS = "requests.json"
ENTRY = "model.py"
"""The file in an archive that defines `load`; those of version 0.1 have a package `model`."""
PACKAGES = ("handler", "task", "model")
"""The packages at the root of an archive of this project; `model` only in those of version 0.1."""
TIMEOUT_S = 600

# -I: only the archive's contents and the installed packages can be imported.
PROGRAM = """
import logging, sys; sys.path.insert(0, '.'); sys.dont_write_bytecode = True
logging.getLogger('handler.golden').addHandler(logging.StreamHandler(sys.stdout))
try:
    from handler.loading import verify_archive; verify_archive()
except Exception as error:
    sys.exit(' '.join(f'{type(error).__name__}: {error}'.split()))
"""
OLD_PROGRAM = PROGRAM.replace(
    "from handler.loading import verify_archive; verify_archive()",
    """
    import json, pathlib, torch
    from handler import golden
    from model.task import load
    task = load(pathlib.Path('.'), torch.device('cpu'))
    golden.check(task)
    pathlib.Path('golden-request.json').write_text(json.dumps(golden.request(task)))
    """,
)
"""For archives of version 0.1."""
RECORD = """
import json
from importlib import metadata
known = metadata.packages_distributions()
found = {name.partition('.')[0] for name in sys.modules if len(set(known.get(name.partition('.')[0], []))) == 1}
pinned = {name: f'{known[name][0]}=={metadata.version(known[name][0])}' for name in found}
open(sys.argv[1], 'w').write(json.dumps(pinned, indent=1, sort_keys=True))
"""


def verify(
    contents: Path,
    python: Path | str = sys.executable,
    distributions: Path | None = None,
    known: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Run the requests in the contents of an archive; write its golden request and its schema into them.

    `distributions` is a file for the requirements of the imported modules; `known` has those of the machine
    where the model was packed. Returns what the model printed, and the requests whose predictions are not
    compared. Raises ArchiveError if a prediction is wrong.
    """
    program = PROGRAM if (contents / ENTRY).is_file() else OLD_PROGRAM
    record = [RECORD, str(distributions.resolve())] if distributions else [""]
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", program + record[0], *record[1:]],
            cwd=contents,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ArchiveError(f"the model did not answer its requests within {TIMEOUT_S} s") from None
    if done.returncode != 0:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise ArchiveError(_add_hint(f"the model fails its requests: {reason}", known))
    return done.stdout.strip()


def _add_hint(error: str, known: Mapping[str, str]) -> str:
    """Add to the error of a missing package which requirement provides it, if that is known."""
    match = re.search(r"ModuleNotFoundError: No module named '([^'.]+)", error)
    if match is None or importlib.util.find_spec(match[1]):
        return error
    requirement = known.get(match[1])
    line = f"the line {requirement}" if requirement else f"the package that provides {match[1]}"
    return f"{error}; add {line} to requirements.txt of the model"


def main() -> None:
    """Verify archives; exit with the error if their predictions are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.verification", description=__doc__.splitlines()[0]
    )
    parser.add_argument("archive", type=Path, nargs="+", help="a .mar")
    text = "JSON object with the requirement for each module"
    parser.add_argument("--distributions", type=Path, metavar="FILE", help=text)
    args = parser.parse_args()
    known = json.loads(args.distributions.read_text()) if args.distributions else {}
    for archive in args.archive:
        try:
            _verify_archive(archive, known)
        except ArchiveError as error:
            sys.exit(f"{archive.name}: {error}")


def _verify_archive(archive: Path, known: Mapping[str, str]) -> None:
    if not manifest.read_manifest(archive).is_project:
        print(f"{archive.name} was not made by this project: it is not verified")
        return
    with tempfile.TemporaryDirectory() as scratch:
        unpack(archive, Path(scratch))
        if notes := verify(Path(scratch), known=known):
            print(notes)
    print(f"{archive.name}: the requests get the expected predictions")


if __name__ == "__main__":
    main()
