"""Each function's README: its requests are sent, and answered as it shows."""

import re
import subprocess

import pytest

from functions.catalogue import FUNCTIONS, Function
from functions.example import example
from tests.cloud.guide import pattern, shown
from tests.functions.conftest import Live
from tests.pictures import ROOT

pytestmark = pytest.mark.xdist_group("functions")


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_what_it_shows_is_answered_so(live: Live, function: Function) -> None:
    url = live(function.name).url
    assert example(function)  # which writes the digits' request
    ran = 0
    for each in shown(function.folder / "README.md"):
        if not each.command.startswith("curl "):
            continue
        command = re.sub("localhost:8080/?", url, each.command)
        # A shell, as its reader has one: the request is quoted for it.
        done = subprocess.run(
            ["bash", "-c", f"{command} --silent --max-time 30"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert re.fullmatch(pattern(each.output), done.stdout + "\n"), done.stdout
        ran += 1
    assert ran


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_it_says_how_the_function_is_run_deployed_and_asked(function: Function) -> None:
    text = (function.folder / "README.md").read_text()
    assert f"make function-{function.name}" in text
    assert f"make deploy-function NAME={function.name}" in text
    assert f"functions source {function.name}" in text
    assert "curl" in text
