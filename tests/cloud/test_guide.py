"""Tests that the commands in docs/cloud.md print what the page shows, run in order.

In other pages, the commands that need Google itself are only checked for their spelling.
"""

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
from project.model_folder import DEFAULT, find_model
from tests.cloud.guide import REAL_CLOUD, SLOW, Example, check_example, read_examples
from tests.container.conftest import DOCKER
from tests.images import ROOT
from tests.programs import require_programs, run_program

GUIDE = ROOT / "docs" / "cloud.md"
PROJECT, REGION = "my-project", "us-central1"
MODEL = find_model("tests/toy", ROOT)
"""The page has the name of the default model in its place."""
PAGES = {"cloud.md": 6, "functions.md": 4, "kubernetes.md": 5, "monitoring.md": 4, "security.md": 5}
"""Page → the minimum number of commands that need Google itself."""


@pytest.fixture
def env(stack: Stack, image: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Return an environment with gcloud's project set, and send requests to the endpoint in the background."""
    # The real image takes longer to start than the timeout of the other tests.
    monkeypatch.setattr(
        stack.state, "config", replace(stack.state.config, ready_timeout_s=180, shared_timeout_s=60)
    )
    environ = {**stack.environment(PROJECT), "DEPLOY_IMAGE": image, "DOCKER": DOCKER}
    del environ["CLOUDSDK_CORE_PROJECT"]
    gcloud = ["gcloud", "config"]
    assert run_program([*gcloud, "set", "project", PROJECT], environ).code == 0
    (ROOT / "build/deploy/emulator.toml").unlink(missing_ok=True)
    request = (ROOT / MODEL.request).read_bytes()
    with background_traffic(stack, PROJECT, MODEL.name, request, pause_s=0.1):
        yield environ
    assert run_program([*gcloud, "unset", "project"], environ).code == 0
    run_program([DOCKER, "rmi", f"{image}-2"])


@pytest.mark.full
def test_guide_is_followed_in_a_second_region_although_a_variable_sets_another_project(
    env: dict[str, str], stack: Stack
) -> None:
    env |= {"CLOUDSDK_CORE_PROJECT": "another-project", "GOOGLE_CLOUD_PROJECT": "another-project"}
    region = "europe-west4"
    ran = 0
    for each in read_examples(GUIDE):
        is_release = "canary" in each.command or "-m deploy" in each.command
        if not each.command.startswith("make ") or each.command.endswith(SLOW) or is_release:
            continue
        if each.command.split()[1] in ("promote", "rollback") or "--idle" in each.command:
            continue
        command, output = (
            text.replace(DEFAULT, MODEL.name)
            .replace(REGION, region)
            .replace("2 versions", "1 version")
            for text in (each.command, each.output)
        )
        # There is no second version here.
        output = output.replace("2 versions", "1 version").replace("version 2,", "version 1,")
        check_example(Example(command, output, uses_new_image=False), command, env, ROOT)
        ran += 1
    assert ran > 5
    assert not stack.state.endpoints
    assert not stack.state.models


@pytest.mark.full
def test_every_command_prints_the_output_in_the_guide(
    env: dict[str, str], stack: Stack, image: str
) -> None:
    with artifacts.storage_client(stack.state.config) as storage:
        storage.create_bucket("my-bucket")
    ran = 0
    for each in read_examples(GUIDE):
        if each.command.endswith((SLOW, REAL_CLOUD)):
            continue
        example = each._replace(
            command=each.command.replace(DEFAULT, MODEL.name),
            output=each.output.replace(DEFAULT, MODEL.name),
        )
        if example.uses_new_image:
            assert run_program([DOCKER, "tag", image, f"{image}-2"]).code == 0
            env["DEPLOY_IMAGE"] = f"{image}-2"
        command = example.command.replace("--watch 10m", "--watch 5s").replace(
            "=IMAGE", f"={image}"
        )
        if "=DEPLOYED" in command:
            name = f"projects/{project_number(PROJECT)}/locations/{REGION}/endpoints/by-hand"
            (deployed,) = stack.state.endpoints[name].deployed_models
            command = command.replace("=DEPLOYED", f"={deployed.id}")
        check_example(example, command, env, ROOT)
        ran += 1
    assert ran > 20
    assert not stack.state.endpoints
    assert not stack.state.models


@pytest.mark.parametrize(("page", "minimum"), PAGES.items())
def test_commands_that_need_google_exist_in_gcloud_with_their_options(
    page: str, minimum: int
) -> None:
    require_programs("gcloud")
    root = run_program(["gcloud", "info", "--format=value(installation.sdk_root)"]).out.strip()
    names: dict[str, Any] = {}
    with open(f"{root}/data/cli/gcloud_completions.py") as file:
        exec(file.read(), names)  # noqa: S102  gcloud's own table of its commands
    commands = [
        example.command.removesuffix(REAL_CLOUD)
        for example in read_examples(ROOT / "docs" / page)
        if example.command.endswith(REAL_CLOUD)
    ]
    assert len(commands) >= minimum
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "gcloud"
        tree = names["STATIC_COMPLETION_CLI_TREE"]
        known = _option_names(tree["flags"])
        for word in words:
            if word not in tree["commands"]:
                break
            tree = tree["commands"][word]
            known |= _option_names(tree["flags"])
        assert not tree["commands"], f"{command} is not a command"
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert not used - known, f"{command} has no {used - known}"


def _option_names(flags: dict[str, Any]) -> set[str]:
    """Return the options' names, and the --no- forms of switches, which the table omits."""
    switches = {name for name, kind in flags.items() if kind == "bool"}
    return set(flags) | {f"--no-{name.removeprefix('--')}" for name in switches}


def test_slow_commands_are_run_by_other_tests() -> None:
    slow = [
        example.command.removesuffix(SLOW).strip()
        for example in read_examples(GUIDE)
        if example.command.endswith(SLOW)
    ]
    assert sorted(slow) == ["make build-cloud", "make e2e"]
    # tests/cloud/test_e2e.py runs make e2e, which runs make build-cloud.
    assert "make -s build-cloud" in (ROOT / "emulator" / "walkthrough.py").read_text()


def test_every_message_in_the_table_exists_in_the_code() -> None:
    code = "".join(
        file.read_text()
        for folder in ("deploy", "emulator", "handler", "serving", "task")
        for file in (ROOT / folder).rglob("*.py")
    )
    table = GUIDE.read_text().partition("## Troubleshooting")[2]
    missing = [
        part
        for row in re.findall(r"^\| (.+?) \|", table, re.MULTILINE)
        for message in re.findall(r"`([^`]+)`", row)
        for part in (piece.strip(" :'") for piece in re.split(r"…|instances\[2\]", message))
        if part and part not in code and part not in ("make status", "predict", "network error")
    ]
    assert missing == []
