"""Runs the commands in a page's console blocks, and compares their output with the page's."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.programs import run_program

SELECTION = f" MODEL={os.environ['MODEL']}"
SLOW, REAL_CLOUD = "# ten minutes", "# real cloud"


class Example(NamedTuple):
    """A command in a page, with its output."""

    command: str
    output: str
    uses_new_image: bool
    """whether the command and those after it deploy another image"""


def read_examples(page: Path) -> Iterator[Example]:
    """Yield the commands in a page's console blocks."""
    blocks = re.findall(
        r"(<!-- another image -->\n)?```console\n(.+?)```", page.read_text(), re.DOTALL
    )
    for new_image, block in blocks:
        for index, part in enumerate(re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]):
            command, _, output = part.partition("\n")
            yield Example(command.strip(), output, bool(new_image) and index == 0)


def output_pattern(output: str) -> str:
    """Return the regular expression of an output, in which … is any text, or on a line of its own any lines."""
    lines = [
        r"(?:.*\n)*?"
        if line.strip() == "…"
        else re.escape(line.strip()).replace("…", ".*") + r"\s*\n"
        for line in output.splitlines()
        if line.strip()
    ]
    return "".join(lines)


def check_example(example: Example, command: str, env: Mapping[str, str], cwd: Path) -> None:
    """Run `command` in place of the example's, and compare its output with the example's."""
    done = run_program(shlex.split(command), env, cwd=cwd, timeout_s=300)
    assert done.code == 0, f"{command}\n{done.out}\n{done.err}"
    # Commands select the model of the tests, which is not the default one of the page.
    lines = [line.strip().replace(SELECTION, "") for line in done.out.splitlines()]
    # A page does not show the lines with the elapsed time, which depend on the machine.
    output = "".join(
        f"{line}\n" for line in lines if line and not re.fullmatch(r"(\d+ min )?\d+ s …", line)
    )
    assert re.fullmatch(output_pattern(example.output), output), (
        f"$ {command}\n{output}\n--- the page:\n{example.output}"
    )
