"""`make rehearse`, as it is typed, in a copy of this repository: it writes into build/."""

import re
from pathlib import Path

import pytest

from tests.container.conftest import DOCKER
from tests.programs import copy_repository, require_programs, run_program

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("rehearsal")]
LIMIT_S = 1500


def test_make_rehearse_goes_from_a_build_to_a_teardown(tmp_path: Path) -> None:
    require_programs("gcloud", "docker-registry")
    copy_repository(tmp_path)
    command = ["make", "rehearse", f"DOCKER={DOCKER}"]
    done = run_program(command, cwd=tmp_path, timeout_s=LIMIT_S)
    assert done.code == 0, done.out[-3000:] + done.err
    nothing, _, end = done.out.strip().splitlines()[-3:]
    assert "nothing is running" in nothing
    assert end.startswith("The whole story took ")
    # Of the image's tests its build ran the few that the rehearsal chooses, and the contract suite.
    log = (tmp_path / "build/rehearsal.log").read_text()
    assert re.search(r"\d+ passed, \d+ deselected", log), log[-3000:]
