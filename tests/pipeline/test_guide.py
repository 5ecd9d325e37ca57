"""The commands of docs/pipeline.md: their options exist, and they print the outputs shown."""

import shlex

import pytest

from emulator.stack import Stack
from pipeline.__main__ import build_parser
from pipeline.evaluate import build_parser as build_evaluate_parser
from project.model_folder import DEFAULT
from tests.cloud.guide import Example, check_example, read_examples
from tests.images import ROOT
from tests.pipeline.conftest import TRAINABLE, Clone
from tests.programs import run_program

pytestmark = [pytest.mark.xdist_group("pipeline"), pytest.mark.full]
GUIDE = ROOT / "docs" / "pipeline.md"
COMMANDS = list(read_examples(GUIDE))


@pytest.mark.parametrize("each", COMMANDS, ids=lambda each: each.command.partition("#")[0].strip())
def test_options_of_each_command_in_the_guide_exist(clone: Clone, each: Example) -> None:
    arguments = shlex.split(each.command, comments=True)
    if arguments[0] == "make":
        # make -n prints the command without running it.
        dry_run = run_program(["make", "-n", *arguments[1:]], cwd=clone.root)
        assert dry_run.code == 0, dry_run.err
        arguments = shlex.split(dry_run.out.strip().splitlines()[-1])
    if "pipeline.evaluate" in arguments:
        build_evaluate_parser().parse_args(arguments[arguments.index("pipeline.evaluate") + 1 :])
    else:
        build_parser().parse_args(arguments[arguments.index("pipeline") + 1 :])


def test_commands_shown_with_an_output_print_it(clone: Clone, stack: Stack) -> None:
    with_output = [each for each in COMMANDS if each.output.strip()]
    assert len(with_output) == 5
    for each in with_output:
        # The page has the name of the default model.
        example = each._replace(output=each.output.replace(DEFAULT, "threshold"))
        env = {**stack.environment("my-project"), "MODEL": TRAINABLE}
        check_example(example, each.command, env, clone.root)
