"""Pages whose commands are run, and must print what the page shows."""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.programs import run_program

ELSEWHERE, GOOGLE = "# ten minutes", "# real cloud"


class Shown(NamedTuple):
    """A command of a page and what it is shown to print."""

    command: str
    output: str
    another: bool
    """whether another image is meant from here on"""


def shown(page: Path) -> Iterator[Shown]:
    """Read a page."""
    found = re.findall(
        r"(<!-- another image -->\n)?```console\n(.+?)```", page.read_text(), re.DOTALL
    )
    for another, block in found:
        for index, part in enumerate(re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]):
            command, _, output = part.partition("\n")
            yield Shown(command.strip(), output, bool(another) and index == 0)


def pattern(output: str) -> str:
    """Return what an output must match: … is anything, alone on a line any number of lines."""
    lines = [
        r"(?:.*\n)*?"
        if line.strip() == "…"
        else re.escape(line.strip()).replace("…", ".*") + r"\s*\n"
        for line in output.splitlines()
        if line.strip()
    ]
    return "".join(lines)


def run(each: Shown, command: str, env: Mapping[str, str], cwd: Path) -> None:
    """Run a command of a page, and compare what it prints with what the page shows."""
    done = run_program(shlex.split(command), env, cwd=cwd, timeout_s=300)
    assert done.code == 0, f"{command}\n{done.out}\n{done.err}"
    lines = [line.strip() for line in done.out.splitlines()]
    # How far something is, now and then, is what a page does not show: it depends on the machine.
    told = "".join(
        f"{line}\n" for line in lines if line and not re.fullmatch(r"(\d+ min )?\d+ s …", line)
    )
    assert re.fullmatch(pattern(each.output), told), (
        f"$ {command}\n{told}\n--- the guide:\n{each.output}"
    )
