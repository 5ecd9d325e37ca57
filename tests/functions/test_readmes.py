"""Each function's README: its requests are sent, and answered as it shows."""

import re

import pytest

from functions.registry import FUNCTIONS, Function
from functions.sample_request import curl_options
from tests.cloud.guide import output_pattern, read_examples
from tests.functions.conftest import Live
from tests.programs import run_program

pytestmark = pytest.mark.xdist_group("functions")


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_it_says_how_to_run_and_deploy_it_and_what_it_shows_is_answered_so(
    live: Live, function: Function
) -> None:
    url = live(function.name).url
    assert curl_options(function)  # writes the request of digits
    ran = 0
    for each in read_examples(function.folder / "README.md"):
        if not each.command.startswith("curl "):
            continue
        command = re.sub("localhost:8080/?", url, each.command)
        # A shell, as its reader has one: the request is quoted for it.
        done = run_program(["bash", "-c", f"{command} --silent --max-time 30"])
        assert re.fullmatch(output_pattern(each.output), done.out + "\n"), done.out + done.err
        ran += 1
    assert ran
    text = (function.folder / "README.md").read_text()
    for named in ("make function-", "make deploy-function NAME=", "functions source "):
        assert f"{named}{function.name}" in text
