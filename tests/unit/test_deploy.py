"""Tests of deploy without an emulator: settings, error messages, retries, canary limits, fingerprints."""

import json
import platform
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import requests
from google.api_core import exceptions

from deploy import (
    canary_analysis,
    cloud_build,
    fingerprint,
    local_build,
    places,
    predict,
    roles,
    settings,
    status,
)
from deploy.__main__ import main
from deploy.error_messages import GoogleError, to_user_error
from deploy.errors import PermissionDeniedError, TransientError, UserError
from deploy.gcp import client
from deploy.image import ensure_image
from deploy.places import Place
from deploy.registry import Image, find_image
from deploy.settings import Settings
from project.model_folder import Model
from tests.images import ROOT


@pytest.fixture(autouse=True)
def saved_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the saved defaults of this machine's user out of the tests."""
    monkeypatch.setattr(places, "FILE", tmp_path / "last.toml")


def write_settings(folder: Path, text: str) -> Path:
    file = folder / "deploy.toml"
    file.write_text(text)
    return file


MODEL = Model(path=Path("model/flowers"), name="flowers")
TOY_MODEL = {"MODEL": "tests/toy"}
"""The environment of the tests that need any model."""

# Settings


def test_option_overrides_variable_overrides_file_overrides_saved_defaults(
    tmp_path: Path,
) -> None:
    settings.save_place(Settings(project="a-saved-one", region="europe-west4"))
    environment = {"DEPLOY_PROJECT": "in-a-variable", "DEPLOY_MIN_REPLICAS": "3"}
    environment |= {"DEPLOY_DEDICATED": "1", "DEPLOY_IMAGE": ""} | TOY_MODEL
    found = settings.load({}, TOY_MODEL, write_settings(tmp_path, ""))
    assert (found.project, found.region) == ("a-saved-one", "europe-west4")
    file = write_settings(tmp_path, 'project = "in-the-file"\nmin_replicas = 2\nmax_replicas = 3\n')
    assert settings.load({}, TOY_MODEL, file).project == "in-the-file"
    found = settings.load({}, environment, file)
    assert (found.project, found.min_replicas) == ("in-a-variable", 3)
    assert (found.dedicated, found.image) == (True, "")
    assert settings.load({"project": "an-argument"}, environment, file).project == "an-argument"


AMBIENT = {"GOOGLE_CLOUD_PROJECT": "in-the-shell", "CLOUDSDK_CORE_PROJECT": "of-gcloud"} | TOY_MODEL


def test_saved_project_and_region_override_variables_of_google_and_the_line_says_so(
    tmp_path: Path,
) -> None:
    file = write_settings(tmp_path, "")
    found = settings.load({}, AMBIENT, file)
    assert found.place_with_origins == (
        "project in-the-shell (from GOOGLE_CLOUD_PROJECT), region us-central1 (from the default)"
    )
    settings.save_place(Settings(project="used-last", region="europe-west4"))
    found = settings.load({}, AMBIENT, file)
    assert found.place_with_origins == (
        "project used-last (from the last command, which overrides GOOGLE_CLOUD_PROJECT=in-the-shell), "
        "region europe-west4 (from the last command)"
    )
    found = settings.load({}, TOY_MODEL, file)
    assert found.place_with_origins == (
        "project used-last, region europe-west4 (from the last command)"
    )
    found = settings.load(
        {"region": "us-east1"}, AMBIENT, write_settings(tmp_path, "project = 'in-a-file'")
    )
    assert (found.project, found.region) == ("in-a-file", "us-east1")
    assert f"project in-a-file (from {file}), " in found.place_with_origins
    assert "region us-east1 (from --region)" in found.place_with_origins


def test_every_place_of_a_name_is_remembered_until_nothing_is_left_there() -> None:
    settings.save_place(Settings(project="first-one", region="europe-west4"))
    settings.save_place(Settings(project="second", region="us-east1"))
    settings.save_place(Settings(project="first-one", region="europe-west4", name="other"))
    assert places.list_places("digits", "") == [
        ("first-one", "europe-west4"),
        ("second", "us-east1"),
    ]
    places.forget(Place("second", "us-east1"), "digits", "")
    assert places.list_places("digits", "") == [("first-one", "europe-west4")]
    assert places.list_places("other", "") == [("first-one", "europe-west4")]
    assert places.load_defaults("")["region"] == "europe-west4"


def test_damaged_file_of_places_is_an_error_that_names_it() -> None:
    places.FILE.write_text("project = ")
    with pytest.raises(UserError, match=r"last\.toml is not TOML"):
        settings.load({}, TOY_MODEL)


def test_deploy_toml_of_the_repository_has_the_defaults() -> None:
    found = settings.load({"project": "my-project"}, {}, ROOT / "deploy.toml", needs_model=False)
    assert found.model_copy(update={"origins": {}}) == Settings(project="my-project")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with the models digits and flowers, and a model beside it."""
    folder = tmp_path / "checkout"
    for model in (folder / "model/digits", folder / "model/flowers", tmp_path / "pets"):
        model.mkdir(parents=True)
        (model / "model.py").touch()
    monkeypatch.chdir(folder)
    return folder


def load(model: str, file: Path = settings.FILE, **environment: str) -> Settings:
    return settings.load({"project": "my-project", "model": model}, environment, file)


def test_name_and_route_are_those_of_the_model(checkout: Path) -> None:
    for model, name in (("", "digits"), ("flowers", "flowers"), ("../pets", "pets")):
        found = load(model)
        assert (found.name, found.predict_route) == (name, f"/predictions/{name}")
        assert found.image_name.endswith(f"/models/{name}")
    assert load("", MODEL="flowers").name == "flowers"
    assert load("flowers", DEPLOY_NAME="roses").name == "roses"
    assert (checkout / "model/flowers/model.py").exists()


def test_deploy_toml_of_a_model_overrides_the_general_one_and_a_given_file_overrides_both(
    checkout: Path, tmp_path: Path
) -> None:
    write_settings(checkout, "max_replicas = 3\nport = 80\n[env]\nA = 'general'\nB = 'general'\n")
    text = "name = 'roses'\nport = 81\n[env]\nB = 'own'\n"
    write_settings(checkout / "model/flowers", text)
    found = load("flowers")
    assert (found.name, found.max_replicas, found.port) == ("roses", 3, 81)
    assert found.env == {"A": "general", "B": "own"}
    assert load("digits").env == {"A": "general", "B": "general"}
    given = write_settings(tmp_path, "port = 82\n[env]\nC = 'given'\n")
    found = load("flowers", given)
    assert (found.name, found.port, found.env) == ("roses", 82, {"B": "own", "C": "given"})
    assert load("flowers", DEPLOY_PORT="83").port == 83


def test_one_name_for_several_models_is_an_error_that_names_the_file_for_it(
    checkout: Path,
) -> None:
    write_settings(checkout, "name = 'shared'")
    with pytest.raises(UserError, match="name = 'shared' is for every model, also for digits") as e:
        load("flowers")
    assert e.value.hint == "move the line to model/flowers/deploy.toml"
    assert load("flowers", DEPLOY_NAME="roses").name == "roses"
    shutil.rmtree(checkout / "model/digits")
    assert load("flowers").name == "shared"


def test_model_that_does_not_exist_is_an_error_only_for_commands_about_a_model(
    checkout: Path,
) -> None:
    with pytest.raises(UserError, match="MODEL=roses: no folder roses") as raised:
        load("roses")
    assert raised.value.hint
    shutil.rmtree(checkout / "model")
    assert settings.load({"project": "my-project"}, {}, needs_model=False).project == "my-project"


@pytest.mark.usefixtures("checkout")
def test_commands_in_messages_select_the_model_unless_it_is_the_default() -> None:
    text = "make promote, or make build-cloud; .venv/bin/python -m deploy deploy --version 1"
    assert load("digits").add_model(text) == text
    assert load("flowers").add_model(text) == (
        "make promote MODEL=flowers, or make build-cloud MODEL=flowers; "
        ".venv/bin/python -m deploy deploy --model flowers --version 1"
    )
    assert load("../pets").add_model("make status") == "make status MODEL=../pets"
    assert load("flowers").add_model("make sure") == "make sure"


def test_requests_are_those_of_the_model_and_an_image_replaces_the_one_in_the_first(
    checkout: Path,
) -> None:
    model = load("flowers").sources
    with pytest.raises(UserError, match=r"requests\.json cannot be read") as raised:
        predict.list_requests(model)
    assert "make archive" in raised.value.hint
    model.build.mkdir(parents=True)
    examples: list[dict[str, Any]] = [
        {"instance": {"image": [{"b64": "AA=="}]}, "parameters": {"k": 1}, "expected": 2},
        {"instance": 3},
    ]
    model.requests.write_text(json.dumps(examples))
    first, second = predict.list_requests(model)
    assert first == predict.build_request(model, None)
    assert first == {"instances": [{"image": [{"b64": "AA=="}]}], "parameters": {"k": 1}}
    assert second == {"instances": [3]}
    (checkout / "x.png").write_bytes(b"image")
    replaced = predict.build_request(model, checkout / "x.png")
    assert replaced == {"instances": [{"image": [{"b64": "aW1hZ2U="}]}], "parameters": {"k": 1}}
    (checkout / "x.png").write_bytes(b"\0")  # the image of the request itself
    assert predict.build_request(model, checkout / "x.png")["instances"] == [
        {"image": [{"b64": "AA=="}]}
    ]
    model.requests.write_text(json.dumps(examples[1:]))
    with pytest.raises(UserError, match='flowers takes no image: its first request has no "b64"'):
        predict.build_request(model, checkout / "x.png")


def test_only_the_files_of_the_selected_model_are_uploaded_to_cloud_build(checkout: Path) -> None:
    (checkout / ".gcloudignore").write_text("build/*\n")
    model = load("../pets").sources
    model.build.mkdir(parents=True)
    write_settings(model.path, "port = 81")
    lines = cloud_build.write_ignore_file(model).read_text().splitlines()
    assert lines[:5] == ["build/*", "", "/model", "!/build/pets", "/build/pets/*"]
    assert (model.build / "deploy.toml").read_text() == "port = 81"
    # In the build there is only the archive.
    model.archive.touch()
    assert load("build/pets/pets.mar").port == 81
    (model.path / "deploy.toml").unlink()
    cloud_build.write_ignore_file(model)
    assert not (model.build / "deploy.toml").exists()


def help_text(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_help_and_docs_list_every_setting_once_with_its_default_and_so_does_deploy_toml(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = " ".join(help_text(capsys, "canary").split())
    page = (ROOT / "docs" / "settings.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", page, re.MULTILINE)
    assert [name for name, _ in rows] == [
        name for group in settings.GROUPS.values() for name in group.model_fields
    ]
    file = (ROOT / "deploy.toml").read_text()
    for name, default in rows:
        field, option = settings.FIELDS[name], f"--{name.replace('_', '-')}"
        expected = settings.describe_default(name)
        in_file = {"yes": "true", "no": "false"}.get(expected, expected)
        assert default == (f"`{in_file}`" if in_file else ""), name
        assert field.description
        if name not in settings.TABLES:
            description = f"{field.description}{f' (default: {expected})' if expected else ''}"
            assert description in text, name
            assert len(re.findall(rf"(?<!\S){option}(?![\w-])", text)) == 1, name
        listed = re.search(rf"^(# )?\[?{name}\b", file, re.MULTILINE)
        assert listed or name in {"wait_minutes", "api_endpoint", "registry", "image"}, name


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.findall(r"^    ([a-z][a-z-]+)", help_text(capsys), re.MULTILINE)
    assert len(commands) == 12
    for command in commands:
        assert "--machine-type" in help_text(capsys, command)


def test_emulator_has_saved_defaults_of_its_own(tmp_path: Path) -> None:
    settings.save_place(Settings(project="at-google"))
    settings.save_place(Settings(project="in-the-emulator", api_endpoint="http://127.0.0.1:1"))
    assert settings.load({}, TOY_MODEL, write_settings(tmp_path, "")).project == "at-google"
    emulator = {"DEPLOY_API_ENDPOINT": "http://127.0.0.1:1"} | TOY_MODEL
    assert settings.load({}, emulator, write_settings(tmp_path, "")).project == "in-the-emulator"


# Errors

SETTINGS = Settings(project="my-project")


@pytest.mark.parametrize(
    ("status", "text", "message", "hint"),
    [
        (
            "PERMISSION_DENIED",
            "Permission 'aiplatform.endpoints.deploy' denied on resource '//…'",
            "permission denied while deploying 3: aiplatform.endpoints.deploy is missing in my-project",
            "--role=roles/aiplatform.user",
        ),
        ("UNAUTHENTICATED", "x", "not authenticated", "application-default login"),
        (
            "FAILED_PRECONDITION",
            "Model server never became ready.",
            "the container did not become healthy",
            "contract",
        ),
        (
            "FAILED_PRECONDITION",
            "It exited unexpectedly.",
            "the container exited while",
            "make contract",
        ),
        (
            "FAILED_PRECONDITION",
            'It exited unexpectedly; the last lines:\n{"message": "ready"}\n{"message": "no GPU"}',
            "the container exited while deploying 3; last log line: no GPU",
            "make contract",
        ),
        (
            "FAILED_PRECONDITION",
            "It exited unexpectedly; the last lines:\n1\nSegmentation fault",
            "the container exited while deploying 3; last log line: Segmentation fault",
            "make contract",
        ),
        ("RESOURCE_EXHAUSTED", "…", "quota exceeded", "iam-admin/quotas?project=my-project"),
        ("NOT_FOUND", "Image a/b:c not found.", "image not found", "make push"),
        ("INVALID_ARGUMENT", "Request payload size exceeds", "is too large", "dedicated = true"),
        ("ABORTED", "etag", "changed by another client while deploying 3: etag", "again"),
        ("CANCELLED", "", "cancelled while deploying 3", "run the same command again"),
        ("INTERNAL", "boom", "Google's API failed while deploying 3: boom", "run the same command"),
        (
            "INVALID_ARGUMENT",
            "no",
            "request rejected while deploying 3: no (INVALID_ARGUMENT)",
            "status",
        ),
    ],
)
def test_google_error_becomes_a_message_and_a_hint(
    status: str, text: str, message: str, hint: str
) -> None:
    error = to_user_error(GoogleError(status, text, action="deploying 3"), SETTINGS)
    assert message in error.message
    assert hint in error.hint


AGENT = "service-12@gcp-sa-aiplatform.iam.gserviceaccount.com"
REPOSITORY = "projects/images/locations/europe-west4/repositories/models"
KEY = "projects/keys/locations/us-central1/keyRings/ring/cryptoKeys/key"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "Permission 'aiplatform.endpoints.deploy' denied on resource "
            "'//aiplatform.googleapis.com/projects/my-project/locations/us-central1/endpoints/digits'",
            "aiplatform.endpoints.deploy is missing in my-project (account me@example.com, role roles/aiplatform.user)",
            "gcloud projects add-iam-policy-binding my-project --member=user:me@example.com "
            "--role=roles/aiplatform.user",
        ),
        (
            f"{AGENT} does not have storage.objects.get access to the Google Cloud Storage object gs://bucket/weights.",
            f"storage.objects.get is missing in gs://bucket (account {AGENT}, role roles/storage.objectViewer)",
            f"gcloud storage buckets add-iam-policy-binding gs://bucket --member=serviceAccount:{AGENT} "
            "--role=roles/storage.objectViewer",
        ),
        (
            "Permission 'artifactregistry.repositories.downloadArtifacts' denied on resource "
            f"'{REPOSITORY}' for {AGENT}",
            f"is missing in {REPOSITORY} (account {AGENT}, role roles/artifactregistry.reader)",
            "gcloud artifacts repositories add-iam-policy-binding models --location=europe-west4 --project=images "
            f"--member=serviceAccount:{AGENT} --role=roles/artifactregistry.reader",
        ),
        (
            "Permission 'iam.serviceAccounts.actAs' denied on "
            "projects/my-project/serviceAccounts/serving@my-project.iam.gserviceaccount.com",
            "(account me@example.com, role roles/iam.serviceAccountUser)",
            "gcloud iam service-accounts add-iam-policy-binding serving@my-project.iam.gserviceaccount.com "
            "--member=user:me@example.com --role=roles/iam.serviceAccountUser",
        ),
        (
            f"{AGENT} lacks 'cloudkms.cryptoKeyVersions.useToEncrypt' on {KEY}",
            f"is missing in {KEY}",
            "gcloud kms keys add-iam-policy-binding key --keyring=ring --location=us-central1 --project=keys "
            f"--member=serviceAccount:{AGENT} --role=roles/cloudkms.cryptoKeyEncrypterDecrypter",
        ),
        (
            "Permission 'strange.things.do' denied",
            "strange.things.do is missing in my-project (account me@example.com)",
            "request the permission strange.things.do from an owner of my-project",
        ),
    ],
)
def test_denied_permission_is_described_with_account_role_resource_and_command(
    text: str, message: str, hint: str
) -> None:
    denied = GoogleError("PERMISSION_DENIED", text, account="me@example.com")
    error = to_user_error(denied, SETTINGS)
    assert error.message.startswith("permission denied: ")
    assert message in error.message
    assert error.hint == hint


def test_exceeded_quota_is_named_with_the_replicas_that_count_and_the_page() -> None:
    text = "The following quotas are exceeded: CustomModelServingCPUsPerProjectPerRegion"
    settings_ = Settings(project="my-project", machine_type="e2-standard-8", max_replicas=20)
    error = to_user_error(GoogleError("RESOURCE_EXHAUSTED", text), settings_)
    assert "(max_replicas counts, here 20 x e2-standard-8 = 160 cores)" in error.message
    assert "in us-central1" in error.message
    assert (
        "request more of CustomModelServingCPUsPerProjectPerRegion: https://console" in error.hint
    )


@pytest.mark.parametrize(
    ("status", "text", "message", "hint"),
    [
        (
            "RESOURCE_EXHAUSTED",
            "Model is not yet ready for inference. Please wait and then try your request again.",
            "the endpoint digits is scaled to zero, and starts a replica now",
            "send the request again in some minutes",
        ),
        (
            "RESOURCE_EXHAUSTED",
            "too many requests at once; try again",
            "the container rejected the request: too many requests at once",
            "increase max_replicas",
        ),
        (
            "INVALID_ARGUMENT",
            "instances[0]: not base64",
            "the container rejected the request: instances[0]: not base64",
            "fix the request",
        ),
        ("INVALID_ARGUMENT", "Request payload size exceeds", "is too large", "dedicated = true"),
    ],
)
def test_error_of_a_prediction_is_the_container_s_or_that_of_an_endpoint_without_replicas(
    status: str, text: str, message: str, hint: str
) -> None:
    error = to_user_error(GoogleError(status, text, action="predicting"), SETTINGS)
    assert message in error.message
    assert hint in error.hint


def test_error_of_a_disabled_api_has_the_command_that_enables_it() -> None:
    service = {"service": "cloudbuild.googleapis.com"}
    error = to_user_error(
        GoogleError("PERMISSION_DENIED", "x", "SERVICE_DISABLED", service), SETTINGS
    )
    assert "the API cloudbuild.googleapis.com is not enabled in my-project" in error.message
    assert error.hint == "gcloud services enable cloudbuild.googleapis.com --project=my-project"


CLIENT = client.Client(SETTINGS)
BUSY = exceptions.ServiceUnavailable("busy")


def test_read_is_retried_with_a_line_for_each_retry(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert CLIENT.read(Mock(side_effect=[BUSY, requests.ConnectionError(), "there"])) == "there"
    printed = "  Google returned 503; retrying\n  connection lost; retrying\n"
    assert capsys.readouterr().out == printed


def test_lost_connection_is_named_with_its_host(capsys: pytest.CaptureFixture[str]) -> None:
    request = requests.Request("GET", "http://127.0.0.1:18000/v1/x").prepare()
    lost = requests.ConnectionError(request=request)
    assert CLIENT.read(Mock(side_effect=[lost, "there"])) == "there"
    assert "connection to 127.0.0.1:18000 lost; retrying" in capsys.readouterr().out


def test_page_of_a_proxy_in_place_of_json_is_an_error_of_google(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    response = requests.Response()
    response.status_code, response._content = 200, b"<html>"
    own = client.Client(Settings(project="my-project", api_endpoint="http://127.0.0.1:1"))
    own.session = Mock(request=Mock(return_value=response))
    monkeypatch.setattr(client, "RETRY_TIMEOUT_S", 1e-9)
    with pytest.raises(UserError, match="no response from Google: Google returned 502"):
        own.get("http://127.0.0.1:1/v1/x")


def test_read_gives_up_after_the_retry_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RETRY_TIMEOUT_S", 1e-9)
    with pytest.raises(UserError, match="no response from Google: Google returned 503"):
        CLIENT.read(Mock(side_effect=BUSY))


def test_change_with_a_broken_connection_is_not_repeated_but_its_attempt_is() -> None:
    change = Mock(side_effect=requests.ConnectionError())
    with pytest.raises(TransientError, match=r"connection lost \(changing it\)"):
        CLIENT.attempt(change, "changing it")
    assert change.call_count == 1
    assert (
        CLIENT.retry_transient(Mock(side_effect=[*[TransientError("broken")] * 2, "made"]))
        == "made"
    )
    always_broken = Mock(side_effect=TransientError("broken"))
    with pytest.raises(UserError, match="gave up after 8 attempts: broken"):
        CLIENT.retry_transient(always_broken)
    assert always_broken.call_count == client.MAX_ATTEMPTS


def test_every_required_permission_has_a_role() -> None:
    for permission in (
        permission for required in roles.REQUIRED.values() for permission in required
    ):
        command = roles.grant_command("my-project", permission)
        assert command.startswith("gcloud projects add-iam-policy-binding my-project")


def test_commit_of_changed_sources_is_shown_as_such() -> None:
    assert status.format_commit("469016a0f1") == "469016a"
    assert status.format_commit("469016a0f1-dirty") == "469016a with changed files"
    assert status.format_commit("") == ""


# A canary


@pytest.mark.parametrize(
    ("responses", "errors", "p95_ms", "violation"),
    [
        (0, 0, None, None),
        (9, 9, None, None),
        (1000, 10, 300, None),
        (1000, 11, 10, "11 of 1000 responses are errors (1.1%, the limit is 1.0%)"),
        (1000, 0, 301, "p95 is 301 ms (the limit is 300 ms)"),
    ],
)
def test_canary_is_judged_from_ten_responses_on(
    responses: int, errors: int, p95_ms: float | None, violation: str | None
) -> None:
    limits = canary_analysis.Limits(minutes=10, error_rate=0.01, p95_ms=300)
    metrics = canary_analysis.CanaryMetrics(responses, errors, p95_ms)
    assert canary_analysis.find_violation(metrics, limits) == violation


def test_times_and_rates_are_parsed_with_their_units() -> None:
    assert [canary_analysis.parse_minutes(text) for text in ("90s", "10m", "1.5h")] == [1.5, 10, 90]
    assert [canary_analysis.parse_rate(text) for text in ("1%", "0.5%", "0%")] == [0.01, 0.005, 0]
    assert [canary_analysis.parse_milliseconds(text) for text in ("300ms", "1.5s")] == [300, 1500]


# The image


def test_files_that_the_dockerfile_copies_are_in_the_fingerprint_and_the_context() -> None:
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = re.findall(r"^COPY (?!.*--from)(.+)$", text, re.MULTILINE)
    words = [word for line in lines for word in line.split()[:-1]]
    copied = [word for word in words if not word.startswith(("--", "${MODEL_FILES}"))]
    assert copied
    for word in copied:
        assert any(Path(word).is_relative_to(source) for source in fingerprint.IMAGE_SOURCES), word
    context = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{source}" for source in fingerprint.IMAGE_SOURCES} - {"!Dockerfile"} <= {*context}


def write_sources(
    folder: Path,
    *,
    code: str = "1",
    weights: str = "2",
    packed: str = "now",
    packages: Mapping[str, str] | None = None,
) -> Path:
    folder.mkdir()
    for name in fingerprint.IMAGE_SOURCES:
        path = folder / name if "." in name or name == "Dockerfile" else folder / name / "x.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    archive = folder / MODEL.archive
    archive.parent.mkdir(parents=True)
    for name, content in (packages or {}).items():
        path = folder / MODEL.packages / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("weights.safetensors", weights)
        file.writestr("MAR-INF/MANIFEST.json", packed)
    return folder


def test_fingerprint_changes_only_with_the_contents_of_the_image(tmp_path: Path) -> None:
    def tag(folder: str, **contents: Any) -> str:
        return fingerprint.image_tag(MODEL, root=write_sources(tmp_path / folder, **contents))

    packages = {"requirements.txt": "x==1", "wheels/x.whl": "1"}
    first = tag("a")
    assert tag("b", packed="later") == first
    tags = [
        *(tag("d", code="9"), tag("e", weights="9"), tag("f", packages=packages)),
        tag("g", packages=packages | {"requirements.txt": "x==2"}),
        tag("h", packages=packages | {"wheels/x.whl": "2"}),
    ]
    assert len({first, *tags}) == 6
    (tmp_path / "a" / "README.md").write_text("words")
    compiled = tmp_path / "a" / "docker" / "__pycache__" / "x.pyc"
    compiled.parent.mkdir()
    compiled.write_text("bytes")
    assert fingerprint.image_tag(MODEL, root=tmp_path / "a") == first


def test_image_for_gpus_and_one_with_another_torch_have_tags_of_their_own(tmp_path: Path) -> None:
    root = write_sources(tmp_path / "a")
    options: list[dict[str, Any]] = [
        {},
        {"accelerator_type": "NVIDIA_L4"},
        {"torch": "torch==2.12.0"},
    ]
    settings = [Settings(project="a-project", sources=MODEL, **each) for each in options]
    cpu, gpu, other = (fingerprint.image_tag(MODEL, each.torch_build, root) for each in settings)
    assert (cpu[:4], gpu[:4], other[:4]) == ("src-", "gpu-", "src-")
    assert len({cpu, gpu, other}) == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [("Dockerfile", "files changed while"), ("README.md", "not in the registry")],
)
def test_image_of_files_that_change_during_the_build_is_not_deployed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, message: str
) -> None:
    monkeypatch.chdir(write_sources(tmp_path / "a"))
    cloud = Mock(settings=Settings(project="a-project", builder="local", sources=MODEL))
    cloud.dry_run = False
    cloud.artifacts.find_digest.return_value = None
    cloud.programs.run = lambda *_, **__: "" * Path(changed).write_text("new")
    with pytest.raises(UserError, match=message):
        ensure_image(cloud)


OWN = "us-central1-docker.pkg.dev/another-project/models/digits"
DIGEST = f"sha256:{'0' * 64}"


def test_tag_of_the_settings_is_looked_up_before_anything_begins() -> None:
    cloud = Mock(settings=Settings(project="a-project", image=f"{OWN}:1"))
    cloud.artifacts.find_digest.return_value = DIGEST
    assert find_image(cloud) == Image(f"{OWN}@{DIGEST}")
    cloud.artifacts.find_digest.assert_called_with("1", OWN)
    cloud.artifacts.find_digest.return_value = None
    with pytest.raises(UserError, match="image not found") as raised:
        find_image(cloud)
    assert "make push" in raised.value.hint
    cloud.artifacts.find_digest.side_effect = PermissionDeniedError("denied")
    assert find_image(cloud) == Image(f"{OWN}:1")
    cloud.report.assert_called_with(f"the image {OWN}:1 is not checked: denied")


@pytest.mark.parametrize(
    ("machine", "built_for", "is_pushed"),
    [("x86_64", "amd64", True), ("arm64", "amd64", True), ("arm64", "arm64", False)],
)
def test_only_an_image_for_the_architecture_of_vertex_ai_is_pushed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    built_for: str,
    is_pushed: bool,
) -> None:
    monkeypatch.chdir(write_sources(tmp_path / "a"))
    monkeypatch.setattr(platform, "machine", lambda: machine)
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> str:
        commands.append(command)
        return f"{built_for}\n" if "inspect" in command else ""

    cloud = Mock(settings=Settings(project="a-project", sources=MODEL))
    cloud.programs.run = run
    if is_pushed:
        local_build.build_and_push(cloud)
    else:
        with pytest.raises(UserError, match="is for arm64, but Vertex AI runs amd64") as raised:
            local_build.build_and_push(cloud)
        assert "DOCKER_DEFAULT_PLATFORM=linux/amd64 make push" in raised.value.hint
    assert any("push" in command for command in commands) == is_pushed
    (build,) = [command for command in commands if command[:2] == ["make", "build"]]
    assert ("DOCKER_DEFAULT_PLATFORM=linux/amd64" in build) == (machine == "arm64")


def test_two_models_with_the_same_contents_have_different_tags(tmp_path: Path) -> None:
    other = Model(path=Path("other"), name="other")
    root = write_sources(tmp_path / "a")
    other_build = root / other.build
    other_build.mkdir()
    shutil.copy(root / MODEL.archive, root / other.archive)
    assert fingerprint.image_tag(other, root=root) != fingerprint.image_tag(MODEL, root=root)


def test_missing_archive_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        fingerprint.image_tag(MODEL, root=tmp_path)
    assert raised.value.hint == "make archive"
