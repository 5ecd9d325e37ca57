"""docs/cloud.md does what it says: every command in it is run, in order, and prints what is shown.

Of the other pages, the commands that are for Google itself name commands that exist.
"""

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import requests

from rehearsal import artifacts
from rehearsal.stage import Stage
from rehearsal.world import number
from tests.cloud.guide import ELSEWHERE, GOOGLE, run, shown, spelt
from tests.container.conftest import DOCKER
from tests.pictures import ROOT
from tests.programs import run_program

GUIDE = ROOT / "docs" / "cloud.md"
PROJECT, REGION = "my-project", "us-central1"
HELD_OUT = ROOT / "build/model/held-out/instances.json"
PAGES = {"cloud.md": 6, "functions.md": 4, "kubernetes.md": 5, "monitoring.md": 4, "security.md": 5}
"""How many commands for Google itself a page has, at least."""


@pytest.fixture
def env(empty: Stage, image: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Return the environment of somebody whose gcloud knows the project, with clients at the endpoint."""
    # The real image takes longer to load than those that the other tests wait for in vain.
    monkeypatch.setattr(
        empty.world, "rules", replace(empty.world.rules, patience_s=180, shared_s=60)
    )
    found = {**empty.environment(PROJECT), "DEPLOY_IMAGE": image, "DOCKER": DOCKER}
    del found["CLOUDSDK_CORE_PROJECT"]
    gcloud = ["gcloud", "config"]
    assert run_program([*gcloud, "set", "project", PROJECT], found).code == 0
    (ROOT / "build/deploy/rehearsed.toml").unlink(missing_ok=True)
    over = threading.Event()
    thread = threading.Thread(target=_ask, args=(empty, over))
    thread.start()
    yield found
    over.set()
    thread.join(60)
    assert run_program([*gcloud, "unset", "project"], found).code == 0
    run_program([DOCKER, "rmi", f"{image}-2"])


def _ask(stage: Stage, over: threading.Event) -> None:
    where = f"{stage.url}/v1/projects/{PROJECT}/locations/{REGION}/endpoints/digits:predict"
    body = {"instances": json.loads(HELD_OUT.read_text())["instances"][:1]}
    while not over.wait(0.1):
        requests.post(where, json=body, timeout=90)


@pytest.mark.full
def test_every_command_prints_what_the_guide_shows(
    env: dict[str, str], empty: Stage, image: str
) -> None:
    with artifacts.client(empty.world.rules) as storage:
        lines = [json.dumps(each) for each in json.loads(HELD_OUT.read_text())["instances"][:2]]
        storage.create_bucket("my-bucket").blob("instances.jsonl").upload_from_string(
            "\n".join(lines)
        )
    ran = 0
    for each in shown(GUIDE):
        if each.command.endswith((ELSEWHERE, GOOGLE)):
            continue
        if each.another:
            assert run_program([DOCKER, "tag", image, f"{image}-2"]).code == 0
            env["DEPLOY_IMAGE"] = f"{image}-2"
        command = each.command.replace("--watch 10m", "--watch 5s").replace("=IMAGE", f"={image}")
        if "=DEPLOYED" in command:
            where = f"projects/{number(PROJECT)}/locations/{REGION}/endpoints/by-hand"
            (deployed,) = empty.world.endpoints[where].deployed_models
            command = command.replace("=DEPLOYED", f"={deployed.id}")
        run(each, command, env, ROOT)
        ran += 1
    assert ran > 20
    assert not empty.world.endpoints
    assert not empty.world.models


@pytest.mark.parametrize(("page", "commands"), PAGES.items())
def test_commands_for_google_itself_are_spelt_as_gcloud_spells_them(
    page: str, commands: int
) -> None:
    assert spelt(ROOT / "docs" / page) >= commands


def test_what_takes_long_is_run_elsewhere() -> None:
    long = [
        each.command.removesuffix(ELSEWHERE).strip()
        for each in shown(GUIDE)
        if each.command.endswith(ELSEWHERE)
    ]
    assert sorted(long) == ["make build-cloud", "make rehearse"]
    # tests/cloud/test_rehearsal.py runs the one, which runs the other.
    assert "make -s build-cloud" in (ROOT / "rehearsal" / "story.py").read_text()


def test_every_error_in_the_table_is_one_that_is_really_said() -> None:
    said = "".join(
        file.read_text()
        for folder in ("deploy", "rehearsal", "handler", "model", "task")
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
