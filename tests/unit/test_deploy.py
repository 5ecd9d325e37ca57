"""What deploy decides without asking anybody: settings, errors explained, a canary judged, costs, images."""

import re
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import requests
from google.api_core import exceptions

from deploy import canary_analysis, image, roles, settings
from deploy.__main__ import main
from deploy.cost import estimate
from deploy.error_messages import GoogleError, to_user_error
from deploy.errors import TransientError, UserError
from deploy.gcp import client
from deploy.plan import Machine
from deploy.settings import Settings
from tests.images import ROOT


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep what this machine's user remembered out of it."""
    monkeypatch.setattr(settings, "LAST", tmp_path / "last.toml")


def written(folder: Path, text: str) -> Path:
    file = folder / "deploy.toml"
    file.write_text(text)
    return file


# Settings


def test_an_argument_beats_a_variable_which_beats_the_file_which_beats_what_was_used_last(
    tmp_path: Path,
) -> None:
    settings.remember(Settings(project="remembered", region="europe-west4"))
    environment = {"DEPLOY_PROJECT": "in-a-variable", "DEPLOY_MIN_REPLICAS": "3"}
    environment |= {"DEPLOY_DEDICATED": "1", "DEPLOY_IMAGE": ""}
    found = settings.read({}, {}, written(tmp_path, ""))
    assert (found.project, found.region) == ("remembered", "europe-west4")
    file = written(tmp_path, 'project = "in-the-file"\nmin_replicas = 2\nmax_replicas = 3\n')
    assert settings.read({}, {}, file).project == "in-the-file"
    found = settings.read({}, environment, file)
    assert (found.project, found.min_replicas) == ("in-a-variable", 3)
    assert (found.dedicated, found.image) == (True, "")
    assert settings.read({"project": "an-argument"}, environment, file).project == "an-argument"


def test_the_projects_own_deploy_toml_is_good() -> None:
    found = settings.read({"project": "my-project"}, {}, ROOT / "deploy.toml")
    assert found == Settings(project="my-project")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mashine_type = 'e2'", "there is no setting 'mashine_type'"),
        ("machine_type = 'E2 STANDARD'", "machine_type = 'E2 STANDARD' should be a machine type"),
        ("min_replicas = '1'", "min_replicas = '1' should be a valid integer"),
        ("min_replicas = 0", "min_replicas = 0 should be greater than or equal to 1"),
        ("min_replicas = true", "min_replicas = True should be a valid integer"),
        ("min_replicas = 3\nmax_replicas = 2", "max_replicas = 2 is less than min_replicas = 3"),
        ("dedicated = 'yes'", "dedicated = 'yes' should be a valid boolean"),
        ("name = 'Digits'", "name = 'Digits' should be lowercase letters"),
        ("region = 'Belgium'", "region = 'Belgium' should be a region such as us-central1"),
        ("artifact_uri = 's3://x'", "artifact_uri = 's3://x' should be gs://BUCKET/FOLDER"),
        ("accelerator_type = 'T4'", "accelerator_type = 'T4' should be an accelerator"),
        ("accelerator_count = 1", "accelerator_count = 1 without an accelerator_type"),
        ("accelerator_type = 'NVIDIA_L4'", "'NVIDIA_L4' without an accelerator_count"),
        ("[env]\nAIP_HTTP_PORT = '1'", "env should not name AIP_HTTP_PORT, which Vertex AI"),
        ("[env]\nA = 1", "env.A = 1 should be a valid string"),
        ("builder = 'here'", "builder = 'here' should be 'cloud' or 'local'"),
        ("name = ", "is not TOML"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_place_and_what_was_expected(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(UserError) as stop:
        settings.read({"project": "my-project"}, {}, written(tmp_path, text))
    assert said in stop.value.message
    assert stop.value.message.startswith(str(tmp_path / "deploy.toml"))
    assert "\n" not in stop.value.message
    assert stop.value.hint


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.toml"):
        with pytest.raises(UserError, match=f"{path} cannot be read: "):
            settings.read({"project": "my-project"}, {}, path)


@pytest.mark.parametrize(
    ("options", "environment", "said"),
    [
        ({}, {"DEPLOY_PORT": "two"}, "DEPLOY_PORT: port = 'two' should be a valid integer"),
        ({}, {"DEPLOY_DEDICATED": "2"}, "DEPLOY_DEDICATED: dedicated = '2' should be a valid"),
        ({"name": "E2"}, {}, "--name: name = 'E2' should be lowercase letters"),
    ],
)
def test_a_wrong_variable_or_option_is_named(
    tmp_path: Path, options: dict[str, str], environment: dict[str, str], said: str
) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(said)}"):
        settings.read({"project": "my-project"} | options, environment, written(tmp_path, ""))


def shown_help(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_every_setting_is_explained_once_with_its_default_and_is_in_the_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = " ".join(shown_help(capsys, "canary").partition("settings:\n")[2].split())
    for name, field in settings.FIELDS.items():
        option = f"--{name.replace('_', '-')}"
        assert len(re.findall(rf"(?<!\S){option}(?![\w-])", told)) == (name != "env"), name
        assert field.description
        default = {"False": "no"}.get(str(field.default), str(field.default))
        shown = f"{field.description} (default: {default})" if default else field.description
        assert shown in told or name == "env"
    text = (ROOT / "deploy.toml").read_text()
    unsaid = {
        name for name in settings.FIELDS if not re.search(rf"^(# )?\[?{name}\b", text, re.MULTILINE)
    }
    assert unsaid <= {"image", "shared_memory_mb", "wait_minutes", "api_endpoint", "registry"}


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.findall(r"^    ([a-z][a-z-]+)", shown_help(capsys), re.MULTILINE)
    assert len(commands) == 12
    for command in commands:
        assert "--machine-type" in shown_help(capsys, command)


@pytest.mark.parametrize(
    "options",
    [
        *("--watch ten", "--watch 10", "--watch 0m", "--traffic 0"),
        *("--max-error-rate many", "--max-error-rate 101%", "--max-p95 fast", "--max-p95 3"),
    ],
)
def test_a_limit_that_cannot_be_read_is_refused_before_anything_is_begun(
    options: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["canary", *options.split()])
    assert end.value.code == 2
    option, value = options.split()
    assert f"argument {option}: {value!r} is n" in capsys.readouterr().err


def test_a_rehearsal_remembers_elsewhere(tmp_path: Path) -> None:
    settings.remember(Settings(project="the-real-one"))
    settings.remember(Settings(project="rehearsed", api_endpoint="http://127.0.0.1:1"))
    assert settings.read({}, {}, written(tmp_path, "")).project == "the-real-one"
    there = {"DEPLOY_API_ENDPOINT": "http://127.0.0.1:1"}
    assert settings.read({}, there, written(tmp_path, "")).project == "rehearsed"


# Errors

HERE = Settings(project="my-project")


@pytest.mark.parametrize(
    ("status", "message", "what", "do"),
    [
        (
            "PERMISSION_DENIED",
            "Permission 'aiplatform.endpoints.deploy' denied on resource '//…'",
            "the permission aiplatform.endpoints.deploy is missing in my-project",
            "--role=roles/aiplatform.user",
        ),
        ("UNAUTHENTICATED", "x", "does not know who is asking", "application-default login"),
        (
            "FAILED_PRECONDITION",
            "Model server never became ready.",
            "never got healthy",
            "contract",
        ),
        ("FAILED_PRECONDITION", "It exited unexpectedly.", "ended by itself", "make contract"),
        ("RESOURCE_EXHAUSTED", "…", "a quota is used up", "iam-admin/quotas?project=my-project"),
        ("NOT_FOUND", "Image a/b:c not found.", "the image is not in the registry", "make push"),
        ("INVALID_ARGUMENT", "Request payload size exceeds", "is too large", "dedicated = true"),
        ("ABORTED", "etag", "somebody else changed it meanwhile while deploying 3: etag", "again"),
        ("CANCELLED", "", "it was cancelled while deploying 3", "run the same command again"),
        ("INTERNAL", "boom", "Google failed while deploying 3: boom", "run the same command"),
        ("INVALID_ARGUMENT", "no", "refuses while deploying 3: no (INVALID_ARGUMENT)", "status"),
    ],
)
def test_googles_errors_are_one_sentence_and_what_to_do(
    status: str, message: str, what: str, do: str
) -> None:
    stop = to_user_error(GoogleError(status, message, doing="deploying 3"), HERE)
    assert what in stop.message
    assert do in stop.hint


def test_an_api_that_is_not_enabled_is_named_with_the_command_that_enables_it() -> None:
    service = {"service": "cloudbuild.googleapis.com"}
    stop = to_user_error(GoogleError("PERMISSION_DENIED", "x", "SERVICE_DISABLED", service), HERE)
    assert "the API cloudbuild.googleapis.com is not enabled in my-project" in stop.message
    assert stop.hint == "gcloud services enable cloudbuild.googleapis.com --project=my-project"


GOOGLE = client.Wire(HERE)
BUSY = exceptions.ServiceUnavailable("busy")


def test_a_read_is_tried_again_with_a_line_for_each_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert GOOGLE._read(Mock(side_effect=[BUSY, requests.ConnectionError(), "there"])) == "there"
    printed = "  Google answers 503; trying again\n  the connection broke; trying again\n"
    assert capsys.readouterr().out == printed


def test_what_stays_busy_ends_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "GIVE_UP_S", 1e-9)
    with pytest.raises(UserError, match="Google does not answer: Google answers 503"):
        GOOGLE._read(Mock(side_effect=BUSY))


def test_a_change_whose_connection_broke_is_made_again_after_another_look() -> None:
    change = Mock(side_effect=requests.ConnectionError())
    with pytest.raises(TransientError, match=r"the connection broke \(changing it\)"):
        GOOGLE._change("changing it", change, object())
    assert change.call_count == 1
    assert GOOGLE.until_made(Mock(side_effect=[*[TransientError("broken")] * 2, "made"])) == "made"
    with pytest.raises(UserError, match="again and again"):
        GOOGLE.until_made(Mock(side_effect=TransientError("broken")))


def test_every_permission_that_is_needed_has_a_role_that_grants_it() -> None:
    for permission in (each for needed in roles.NEEDED.values() for each in needed):
        command = roles.grant("my-project", permission)
        assert command.startswith("gcloud projects add-iam-policy-binding my-project")


# A canary


@pytest.mark.parametrize(
    ("answers", "errors", "p95_ms", "wrong"),
    [
        (0, 0, None, None),
        (9, 9, None, None),
        (1000, 10, 300, None),
        (1000, 11, 10, "11 of 1000 answers are errors (1.1%, the limit is 1.0%)"),
        (1000, 0, 301, "p95 is 301 ms (the limit is 300 ms)"),
    ],
)
def test_a_canary_is_judged_once_enough_was_seen(
    answers: int, errors: int, p95_ms: float | None, wrong: str | None
) -> None:
    limits = canary_analysis.Limits(minutes=10, error_rate=0.01, p95_ms=300)
    assert (
        canary_analysis.find_violation(
            canary_analysis.CanaryMetrics(answers, errors, p95_ms), limits
        )
        == wrong
    )


def test_times_and_rates_are_read_as_people_write_them() -> None:
    assert [canary_analysis.minutes(text) for text in ("90s", "10m", "1.5h")] == [1.5, 10, 90]
    assert [canary_analysis.rate(text) for text in ("1%", "0.01", "0%")] == [0.01, 0.01, 0]
    assert [canary_analysis.milliseconds(text) for text in ("300ms", "1.5s")] == [300, 1500]


# Costs


def test_costs_count_replicas_and_accelerators() -> None:
    def hour(count: int, *machine: Any) -> float:
        return estimate([(Machine(*machine), count)]).hour

    with_t4 = ("n1-standard-4", "NVIDIA_TESLA_T4", 2)
    assert hour(3, *with_t4) == pytest.approx(3 * hour(1, *with_t4))
    assert hour(1, *with_t4) - hour(1, "n1-standard-4") == pytest.approx(2 * 0.4025)
    # An L4 is in its machine's price.
    assert hour(1, "g2-standard-8", "NVIDIA_L4", 1) == hour(1, "g2-standard-8")


def test_a_cost_names_what_has_no_price_and_where_the_prices_are_from() -> None:
    cost = estimate([(Machine("z9-giga-1"), 1), (Machine("e2-standard-2"), 1)])
    assert cost.unknown == ("z9-giga-1",)
    assert "z9-giga-1" in str(cost)
    assert "$0.08 an hour" in str(cost)
    assert str(cost).endswith("prices of 2026-11 from https://cloud.google.com/vertex-ai/pricing")


# The image


def test_the_fingerprint_covers_whatever_the_dockerfile_copies() -> None:
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = re.findall(r"^COPY (?!.*--from)(.+)$", text, re.MULTILINE)
    words = [word for line in lines for word in line.split()[:-1]]
    copied = [word for word in words if not word.startswith("--") and "ARCHIVE" not in word]
    assert copied
    for word in copied:
        covered = any(Path(word).is_relative_to(each) for each in image.INPUTS)
        assert covered or image.ARCHIVE.is_relative_to(word), word


def tree(folder: Path, *, code: str = "1", weights: str = "2", packed: str = "now") -> Path:
    folder.mkdir()
    for name in image.INPUTS:
        path = folder / name if "." in name or name == "Dockerfile" else folder / name / "x.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    archive = folder / image.ARCHIVE
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("weights.safetensors", weights)
        file.writestr("MAR-INF/MANIFEST.json", packed)
    return folder


def test_the_fingerprint_changes_with_what_goes_in_and_with_nothing_else(tmp_path: Path) -> None:
    first = image.fingerprint(tree(tmp_path / "a"))
    assert image.fingerprint(tree(tmp_path / "b", packed="later")) == first
    assert image.fingerprint(tree(tmp_path / "c", code="9")) != first
    assert image.fingerprint(tree(tmp_path / "d", weights="9")) != first
    (tmp_path / "a" / "README.md").write_text("words")
    compiled = tmp_path / "a" / "docker" / "__pycache__" / "x.pyc"
    compiled.parent.mkdir()
    compiled.write_text("bytes")
    assert image.fingerprint(tmp_path / "a") == first


def test_without_an_archive_it_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError) as stop:
        image.fingerprint(tmp_path)
    assert stop.value.hint == "make archive"
