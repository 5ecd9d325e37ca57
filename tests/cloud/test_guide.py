"""docs/cloud.md does what it says: every command in it is run, in order, and prints what is shown.

Of the other pages, the commands that are for Google itself name commands that exist.
"""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from emulator import artifacts
from emulator.stack import Stack
from emulator.state import project_number
from emulator.walkthrough import background_traffic
from tests.cloud.guide import ELSEWHERE, GOOGLE, run, shown
from tests.container.conftest import DOCKER
from tests.images import ROOT
from tests.programs import require_programs, run_program

GUIDE = ROOT / "docs" / "cloud.md"
PROJECT, REGION = "my-project", "us-central1"
HELD_OUT = ROOT / "build/model/held-out/instances.json"
PAGES = {"cloud.md": 6, "functions.md": 4, "kubernetes.md": 5, "monitoring.md": 4, "security.md": 5}
"""How many commands for Google itself a page has, at least."""


@pytest.fixture
def env(stack: Stack, image: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Return the environment of somebody whose gcloud knows the project, with clients at the endpoint."""
    # The real image takes longer to load than those that the other tests wait for in vain.
    monkeypatch.setattr(
        stack.state, "config", replace(stack.state.config, ready_timeout_s=180, shared_timeout_s=60)
    )
    found = {**stack.environment(PROJECT), "DEPLOY_IMAGE": image, "DOCKER": DOCKER}
    del found["CLOUDSDK_CORE_PROJECT"]
    gcloud = ["gcloud", "config"]
    assert run_program([*gcloud, "set", "project", PROJECT], found).code == 0
    (ROOT / "build/deploy/emulator.toml").unlink(missing_ok=True)
    instances = json.loads(HELD_OUT.read_text())["instances"][:1]
    with background_traffic(
        stack, PROJECT, json.dumps({"instances": instances}).encode(), pause_s=0.1
    ):
        yield found
    assert run_program([*gcloud, "unset", "project"], found).code == 0
    run_program([DOCKER, "rmi", f"{image}-2"])


@pytest.mark.full
def test_every_command_prints_what_the_guide_shows(
    env: dict[str, str], stack: Stack, image: str
) -> None:
    with artifacts.storage_client(stack.state.config) as storage:
        instances = json.loads(HELD_OUT.read_text())["instances"][:2]
        lines = "\n".join(json.dumps(each) for each in instances)
        storage.create_bucket("my-bucket").blob("instances.jsonl").upload_from_string(lines)
    ran = 0
    for each in shown(GUIDE):
        if each.command.endswith((ELSEWHERE, GOOGLE)):
            continue
        if each.another:
            assert run_program([DOCKER, "tag", image, f"{image}-2"]).code == 0
            env["DEPLOY_IMAGE"] = f"{image}-2"
        command = each.command.replace("--watch 10m", "--watch 5s").replace("=IMAGE", f"={image}")
        if "=DEPLOYED" in command:
            where = f"projects/{project_number(PROJECT)}/locations/{REGION}/endpoints/by-hand"
            (deployed,) = stack.state.endpoints[where].deployed_models
            command = command.replace("=DEPLOYED", f"={deployed.id}")
        run(each, command, env, ROOT)
        ran += 1
    assert ran > 20
    assert not stack.state.endpoints
    assert not stack.state.models


@pytest.mark.parametrize(("page", "least"), PAGES.items())
def test_commands_for_google_itself_are_spelt_as_gcloud_spells_them(page: str, least: int) -> None:
    require_programs("gcloud")
    root = run_program(["gcloud", "info", "--format=value(installation.sdk_root)"]).out.strip()
    names: dict[str, Any] = {}
    with open(f"{root}/data/cli/gcloud_completions.py") as file:
        exec(file.read(), names)  # noqa: S102  gcloud's own table of its commands
    commands = [
        each.command.removesuffix(GOOGLE)
        for each in shown(ROOT / "docs" / page)
        if each.command.endswith(GOOGLE)
    ]
    assert len(commands) >= least
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "gcloud"
        tree = names["STATIC_COMPLETION_CLI_TREE"]
        known = _spellings(tree["flags"])
        for word in words:
            if word not in tree["commands"]:
                break
            tree = tree["commands"][word]
            known |= _spellings(tree["flags"])
        assert not tree["commands"], f"{command} is no command"
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert not used - known, f"{command} has no {used - known}"


def _spellings(flags: dict[str, Any]) -> set[str]:
    """Return the ways to write these options: the table leaves out a switch's --no- form."""
    switches = {name for name, kind in flags.items() if kind == "bool"}
    return set(flags) | {f"--no-{name.removeprefix('--')}" for name in switches}


def test_what_takes_long_is_run_elsewhere() -> None:
    long = [
        each.command.removesuffix(ELSEWHERE).strip()
        for each in shown(GUIDE)
        if each.command.endswith(ELSEWHERE)
    ]
    assert sorted(long) == ["make build-cloud", "make e2e"]
    # tests/cloud/test_e2e.py runs the one, which runs the other.
    assert "make -s build-cloud" in (ROOT / "emulator" / "walkthrough.py").read_text()


def test_every_error_in_the_table_is_one_that_is_really_said() -> None:
    said = "".join(
        file.read_text()
        for folder in ("deploy", "emulator", "handler", "model", "task")
        for file in (ROOT / folder).rglob("*.py")
    )
    table = GUIDE.read_text().partition("## When it says")[2]
    unsaid = [
        part
        for row in re.findall(r"^\| (.+?) \|", table, re.MULTILINE)
        for message in re.findall(r"`([^`]+)`", row)
        for part in (piece.strip(" :'") for piece in re.split(r"…|instances\[2\]", message))
        if part and part not in said and part not in ("make status", "predict", "network error")
    ]
    assert unsaid == []
