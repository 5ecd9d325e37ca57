"""Print the variables of the running `make emulator`: eval "$(make emulator-env)"."""

import argparse
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path("build/emulator")
FILE = FOLDER / "env"


def write_file(variables: Mapping[str, str]) -> None:
    """Write the file with the commands that set the variables; it is deleted with its folder."""
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    FILE.write_text("".join(lines))


def main() -> None:
    """Print the file; exit with 1 and a message if no emulator runs."""
    parser = argparse.ArgumentParser(prog="python -m emulator.env", description=__doc__)
    parser.parse_args()
    if not FILE.is_file():
        sys.exit("emulator-env: no emulator is running here; start it with: make emulator")
    print(FILE.read_text(), end="")


if __name__ == "__main__":
    main()
