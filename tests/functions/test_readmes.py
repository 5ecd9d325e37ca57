"""The requests in each function's README get the responses that it shows."""

import re

import pytest

from functions.registry import FUNCTIONS, Function
from functions.sample_request import curl_options
from tests.cloud.guide import output_pattern, read_examples
from tests.functions.conftest import StartLive
from tests.programs import run_program

pytestmark = pytest.mark.xdist_group("functions")


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_readme_shows_how_to_run_and_deploy_it_with_real_responses(
    live: StartLive, function: Function
) -> None:
    url = live(function.name).url
    assert curl_options(function)  # writes the request of digits
    ran = 0
    for each in read_examples(function.folder / "README.md"):
        if not each.command.startswith("curl "):
            continue
        command = re.sub("localhost:8080/?", url, each.command)
        # In a shell, because the README quotes the request for one.
        result = run_program(["bash", "-c", f"{command} --silent --max-time 30"])
        assert re.fullmatch(output_pattern(each.output), result.out + "\n"), result.out + result.err
        ran += 1
    assert ran
    text = (function.folder / "README.md").read_text()
    for command in ("make function-", "make deploy-function NAME=", "functions source "):
        assert f"{command}{function.name}" in text
