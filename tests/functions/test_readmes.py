"""The requests in each function's README get the responses that it shows."""

import re

import pytest

from functions.registry import Function
from tests.cloud.guide import output_pattern, read_examples
from tests.functions.conftest import EVERY, StartLive
from tests.programs import run_program

pytestmark = pytest.mark.xdist_group("functions")


@pytest.mark.parametrize("function", EVERY.values(), ids=EVERY)
def test_readme_shows_how_to_run_and_deploy_it_with_real_responses(
    live: StartLive, function: Function
) -> None:
    url = live(function.name).url
    ran = 0
    for each in read_examples(function.folder / "README.md"):
        if not each.command.startswith("curl "):
            continue
        command = re.sub("localhost:8080/?", url, each.command).replace("digits", function.name)
        # In a shell, because the README quotes the request for one.
        result = run_program(["bash", "-c", f"{command} --silent --max-time 30"])
        assert re.fullmatch(output_pattern(each.output), result.out + "\n"), result.out + result.err
        ran += 1
    assert ran
    text = (function.folder / "README.md").read_text()
    name = "digits" if function.model else function.name
    option = "MODEL" if function.model else "NAME"
    assert f"make deploy-function {option}={name} " in text
    assert f"functions source {name}" in text
    assert f"--target {function.entry_point} " in text
