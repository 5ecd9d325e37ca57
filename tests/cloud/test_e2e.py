"""`make e2e` in a copy of this repository, because it writes into build/."""

import re
from pathlib import Path

import pytest

from tests.container.conftest import DOCKER
from tests.programs import copy_repository, require_programs, run_program

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("e2e")]
TIMEOUT_S = 1500
TESTS = "tests/container -k wire_contract"
"""Enough to show that Cloud Build runs tests on the image."""


def test_make_e2e_runs_everything_from_build_to_teardown(tmp_path: Path) -> None:
    require_programs("gcloud", "docker-registry")
    copy_repository(tmp_path)
    command = ["make", "e2e", f"DOCKER={DOCKER}", f"ARGS=--tests '{TESTS}'"]
    result = run_program(command, cwd=tmp_path, timeout_s=TIMEOUT_S)
    assert result.code == 0, result.out[-3000:] + result.err
    cost, _, summary = result.out.strip().splitlines()[-3:]
    assert "nothing is running" in cost
    assert summary.startswith("All steps passed in ")
    # The build ran these tests and the contract suite.
    log = (tmp_path / "build/e2e.log").read_text()
    assert re.search(r"\d+ passed, \d+ deselected", log), log[-3000:]
    assert re.search(r"PASS +\S", log), log[-3000:]
