"""docs/pipeline.md does what it says: its commands are such, and print what is shown."""

import shlex

import pytest

from emulator.stack import Stack
from pipeline.__main__ import parser
from pipeline.evaluate import parser as evaluation
from tests.cloud.guide import Shown, run, shown
from tests.images import ROOT
from tests.pipeline.conftest import Clone
from tests.programs import run_program

pytestmark = [pytest.mark.xdist_group("pipeline"), pytest.mark.full]
GUIDE = ROOT / "docs" / "pipeline.md"
COMMANDS = list(shown(GUIDE))


@pytest.mark.parametrize("each", COMMANDS, ids=lambda each: each.command.partition("#")[0].strip())
def test_a_command_of_the_guide_has_the_options_that_it_is_shown_with(
    clone: Clone, each: Shown
) -> None:
    words = shlex.split(each.command, comments=True)
    if words[0] == "make":
        # What it would run: make -n prints it.
        told = run_program(["make", "-n", *words[1:]], cwd=clone.root)
        assert told.code == 0, told.err
        words = shlex.split(told.out.strip().splitlines()[-1])
    if "pipeline.evaluate" in words:
        evaluation().parse_args(words[words.index("pipeline.evaluate") + 1 :])
    else:
        parser().parse_args(words[words.index("pipeline") + 1 :])


def test_every_command_that_shows_an_output_prints_it(clone: Clone, stack: Stack) -> None:
    shows = [each for each in COMMANDS if each.output.strip()]
    assert len(shows) == 5
    for each in shows:
        run(each, each.command, stack.environment("my-project"), clone.root)
