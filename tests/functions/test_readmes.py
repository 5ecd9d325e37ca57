"""Each function's README: its requests are sent, and answered as it shows."""

import re
import subprocess

import pytest

from functions.catalogue import FUNCTIONS, Function
from functions.example import example
from tests.cloud.guide import pattern, shown
from tests.functions.conftest import Start
from tests.pictures import ROOT


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_what_it_shows_is_answered_so(start: Start, function: Function) -> None:
    model = {"STORAGE_URI": str(ROOT / function.made)} if function.model else {}
    url = start(function.name, **model).url
    assert example(function)  # which writes the digits' request
    ran = 0
    for each in shown(function.folder / "README.md"):
        if not each.command.startswith("curl "):
            continue
        command = each.command.replace("localhost:8080/", url).replace("localhost:8080", url)
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
