"""docs/functions.md does what it says."""

import os

import pytest

from rehearsal.stage import Stage
from tests.cloud.guide import ELSEWHERE, GOOGLE, run, shown
from tests.pictures import ROOT

GUIDE = ROOT / "docs" / "functions.md"
PROJECT = "my-project"
pytestmark = pytest.mark.full


def test_every_command_prints_what_the_guide_shows(empty: Stage) -> None:
    env = {**os.environ, **empty.environment(PROJECT)}
    for name in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS"):
        env.pop(name, None)
    ran = 0
    for each in shown(GUIDE):
        if not each.command.endswith((ELSEWHERE, GOOGLE)):
            run(each, each.command, env, ROOT)
            ran += 1
    assert ran >= 5
    assert not empty.world.functions
