"""docs/pipeline.md does what it says: its commands are such, and print what is shown."""

import os
import shlex
import subprocess

import pytest

from pipeline.__main__ import parser
from pipeline.evaluate import parser as evaluation
from rehearsal.stage import Stage
from tests.cloud.guide import Shown, run, shown
from tests.pictures import ROOT
from tests.pipeline.conftest import Clone

pytestmark = [pytest.mark.xdist_group("pipeline"), pytest.mark.full]
GUIDE = ROOT / "docs" / "pipeline.md"
COMMANDS = list(shown(GUIDE))
UNDER_MAKE = ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")


@pytest.mark.parametrize("each", COMMANDS, ids=lambda each: each.command.partition("#")[0].strip())
def test_a_command_of_the_guide_has_the_options_that_it_is_shown_with(
    clone: Clone, each: Shown
) -> None:
    words = shlex.split(each.command, comments=True)
    if words[0] == "make":
        # What it would run: make -n prints it.
        env = {name: value for name, value in os.environ.items() if name not in UNDER_MAKE}
        told = subprocess.run(
            ["make", "-n", *words[1:]],
            cwd=clone.root,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        words = shlex.split(told.strip().splitlines()[-1])
    if "pipeline.evaluate" in words:
        evaluation().parse_args(words[words.index("pipeline.evaluate") + 1 :])
    else:
        parser().parse_args(words[words.index("pipeline") + 1 :])


def test_every_command_that_shows_an_output_prints_it(clone: Clone, empty: Stage) -> None:
    env = {**os.environ, **empty.environment("my-project")}
    for name in UNDER_MAKE:
        env.pop(name, None)
    ran = 0
    for each in COMMANDS:
        if each.output.strip():
            run(each, each.command, env, clone.root)
            ran += 1
    assert ran == 5
