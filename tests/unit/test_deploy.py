"""What deploy decides without asking anybody: settings, errors explained, a canary judged, costs, images."""

import argparse
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import requests
from google.api_core import exceptions

from deploy import image, roles, settings, watch
from deploy.__main__ import main
from deploy.cost import estimate
from deploy.errors import Lost, Stop
from deploy.explain import Said, explain
from deploy.google import wire
from deploy.plan import Machine
from deploy.settings import Settings
from tests.pictures import ROOT


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
    assert settings.read({}, {}, written(tmp_path, "")).project == "remembered"
    assert settings.read({}, {}, written(tmp_path, "")).region == "europe-west4"
    file = written(tmp_path, 'project = "in-the-file"\nmin_replicas = 2\nmax_replicas = 3\n')
    assert settings.read({}, {}, file).project == "in-the-file"
    assert settings.read({}, environment, file).project == "in-a-variable"
    assert settings.read({}, environment, file).min_replicas == 3
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
        (
            "accelerator_type = 'NVIDIA_L4'",
            "accelerator_type = 'NVIDIA_L4' without an accelerator_count",
        ),
        (
            "[env]\nAIP_HTTP_PORT = '1'",
            "env should not name AIP_HTTP_PORT, which Vertex AI sets itself",
        ),
        ("[env]\nA = 1", "env.A = 1 should be a valid string"),
        ("builder = 'here'", "builder = 'here' should be 'cloud' or 'local'"),
        ("name = ", "is not TOML"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_place_and_what_was_expected(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(Stop) as stop:
        settings.read({"project": "my-project"}, {}, written(tmp_path, text))
    assert said in stop.value.what
    assert stop.value.what.startswith(str(tmp_path / "deploy.toml"))
    assert "\n" not in stop.value.what
    assert stop.value.do


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.toml"):
        with pytest.raises(Stop, match=f"{path} cannot be read: "):
            settings.read({"project": "my-project"}, {}, path)


@pytest.mark.parametrize(
    ("options", "environment", "said"),
    [
        (
            {},
            {"DEPLOY_MIN_REPLICAS": "two"},
            "DEPLOY_MIN_REPLICAS: min_replicas = 'two' should be a valid integer",
        ),
        (
            {},
            {"DEPLOY_DEDICATED": "2"},
            "DEPLOY_DEDICATED: dedicated = '2' should be a valid boolean",
        ),
        (
            {"machine_type": "E2"},
            {},
            "--machine-type: machine_type = 'E2' should be a machine type",
        ),
    ],
)
def test_a_wrong_variable_or_option_is_named(
    tmp_path: Path, options: dict[str, str], environment: dict[str, str], said: str
) -> None:
    with pytest.raises(Stop) as stop:
        settings.read({"project": "my-project"} | options, environment, written(tmp_path, ""))
    assert stop.value.what.startswith(said)


def test_variables_are_text_that_becomes_what_the_setting_is(tmp_path: Path) -> None:
    environment = {"DEPLOY_DEDICATED": "1", "DEPLOY_PORT": "81", "DEPLOY_IMAGE": ""}
    found = settings.read({"project": "my-project"}, environment, written(tmp_path, ""))
    assert (found.dedicated, found.port, found.image) == (True, 81, "")


def test_every_setting_is_explained_once_with_its_default_and_is_in_the_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["canary", "--help"])
    told = " ".join(capsys.readouterr().out.partition("settings:\n")[2].split())
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
    def told(*words: str) -> str:
        with pytest.raises(SystemExit) as end:
            main([*words, "--help"])
        assert end.value.code == 0
        return capsys.readouterr().out

    commands = re.findall(r"^    ([a-z][a-z-]+)", told(), re.MULTILINE)
    assert len(commands) == 12
    for command in commands:
        assert "--machine-type" in told(command)


@pytest.mark.parametrize(
    "options",
    ["--watch ten", "--watch 0m", "--max-error-rate many", "--max-p95 fast", "--traffic 0"],
)
def test_a_limit_that_cannot_be_read_is_refused_before_anything_is_begun(
    options: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["canary", *options.split()])
    assert end.value.code == 2
    option, value = options.split()
    assert f"argument {option}: {value!r} is n" in capsys.readouterr().err


def test_help_does_not_wait_for_googles_libraries() -> None:
    program = (
        "import sys; from deploy.__main__ import main\n"
        "try: main(['deploy', '--help'])\n"
        "except SystemExit: print([n for n in sys.modules if n.startswith(('google.a', 'google.cloud.'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_rehearsal_remembers_elsewhere(tmp_path: Path) -> None:
    settings.remember(Settings(project="the-real-one"))
    settings.remember(Settings(project="rehearsed", api_endpoint="http://127.0.0.1:1"))
    assert settings.read({}, {}, written(tmp_path, "")).project == "the-real-one"
    there = {"DEPLOY_API_ENDPOINT": "http://127.0.0.1:1"}
    assert settings.read({}, there, written(tmp_path, "")).project == "rehearsed"


# Errors

HERE = Settings(project="my-project")


@pytest.mark.parametrize(
    ("said", "what", "do"),
    [
        (
            Said(
                "PERMISSION_DENIED",
                "Permission 'aiplatform.endpoints.deploy' denied on resource '//…'",
            ),
            "the permission aiplatform.endpoints.deploy is missing in my-project",
            "--role=roles/aiplatform.user",
        ),
        (
            Said(
                "PERMISSION_DENIED",
                "x",
                "SERVICE_DISABLED",
                {"service": "cloudbuild.googleapis.com"},
            ),
            "the API cloudbuild.googleapis.com is not enabled in my-project",
            "gcloud services enable cloudbuild.googleapis.com --project=my-project",
        ),
        (
            Said("UNAUTHENTICATED", "x"),
            "does not know who is asking",
            "gcloud auth application-default login",
        ),
        (
            Said("FAILED_PRECONDITION", "Model server never became ready. Please validate …"),
            "the container never got healthy",
            "make contract",
        ),
        (
            Said(
                "RESOURCE_EXHAUSTED",
                "The following quota metrics exceed quota limits: …/custom_model_serving_cpus",
            ),
            "a quota is used up",
            "console.cloud.google.com/iam-admin/quotas?project=my-project",
        ),
        (
            Said("NOT_FOUND", "Image a/b:c not found."),
            "the image is not in the registry",
            "make push",
        ),
        (
            Said("INVALID_ARGUMENT", "Request payload size exceeds the limit: 1572864 bytes."),
            "the request is too large",
            "dedicated = true",
        ),
        (
            Said("INTERNAL", "boom", doing="deploying 3"),
            "while deploying 3: boom",
            "run the same command",
        ),
        (
            Said("INVALID_ARGUMENT", "Traffic must sum to 100"),
            "Google refuses: Traffic must sum to 100",
            "status",
        ),
    ],
)
def test_googles_errors_are_one_sentence_and_what_to_do(said: Said, what: str, do: str) -> None:
    stop = explain(said, HERE)
    assert what in stop.what
    assert do in stop.do


class Busy(wire.Wire):
    """A Google that answers with these, one after the other."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.lines = iter(answers), list[str]()
        super().__init__(HERE, self.lines.append)

    def answer(self, **_: Any) -> Any:
        found = next(self.answers)
        if isinstance(found, Exception):
            raise found
        return found


def test_what_is_busy_is_asked_again_with_a_line_for_each_time() -> None:
    google = Busy(exceptions.ServiceUnavailable("busy"), requests.ConnectionError(), "there")
    assert google._read(google.answer) == "there"
    assert google.lines == [
        "  Google answers 503; trying again",
        "  the connection broke; trying again",
    ]


def test_what_stays_busy_ends_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "GIVE_UP_S", 1e-9)
    google = Busy(*[exceptions.ServiceUnavailable("busy")] * 9)
    with pytest.raises(Stop, match="Google does not answer: Google answers 503"):
        google._read(google.answer)


def test_a_change_whose_connection_broke_is_made_again_by_whoever_looks_first() -> None:
    google = Busy(requests.ConnectionError(), "made")
    with pytest.raises(Lost, match=r"the connection broke \(changing it\)"):
        google._change("changing it", lambda *_, **__: google.answer(), object())
    google = Busy(*[Lost("broken")] * 2, "made")
    assert google.until_made(google.answer) == "made"
    assert google.lines == ["  broken; looking again"] * 2
    broken = Busy(*[Lost("broken")] * wire.ATTEMPTS)
    with pytest.raises(Stop, match="again and again"):
        broken.until_made(broken.answer)


def test_every_permission_that_is_needed_has_a_role_that_grants_it() -> None:
    for needed in roles.NEEDED.values():
        for permission in needed:
            command = roles.grant("my-project", permission)
            assert command.startswith("gcloud projects add-iam-policy-binding my-project")


# A canary

LIMITS = watch.Limits(minutes=10, error_rate=0.01, p95_ms=300)


@pytest.mark.parametrize(
    ("seen", "wrong"),
    [
        (watch.Seen(answers=9, errors=9), None),
        (watch.Seen(answers=1000, errors=10, p95_ms=300), None),
        (
            watch.Seen(answers=1000, errors=11),
            "11 of 1000 answers are errors (1.1%, the limit is 1.0%)",
        ),
        (watch.Seen(answers=1000, p95_ms=301), "p95 is 301 ms (the limit is 300 ms)"),
        (watch.Seen(), None),
    ],
)
def test_a_canary_is_judged_once_enough_was_seen(seen: watch.Seen, wrong: str | None) -> None:
    assert watch.trouble(seen, LIMITS) == wrong


def test_times_and_rates_are_read_as_people_write_them() -> None:
    assert [watch.minutes(text) for text in ("90s", "10m", "1.5h")] == [1.5, 10, 90]
    assert [watch.rate(text) for text in ("1%", "0.01", "0%")] == [0.01, 0.01, 0]
    assert [watch.milliseconds(text) for text in ("300ms", "1.5s")] == [300, 1500]
    for read, text in (
        (watch.minutes, "10"),
        (watch.minutes, "0m"),
        (watch.rate, "101%"),
        (watch.milliseconds, "3"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match=re.escape(repr(text))):
            read(text)


# Costs


def test_costs_count_replicas_and_accelerators() -> None:
    small, with_t4 = Machine("e2-standard-2"), Machine("n1-standard-4", "NVIDIA_TESLA_T4", 2)
    one = estimate([(small, 1)]).hour
    assert estimate([(small, 3)]).hour == pytest.approx(3 * one)
    plain = estimate([(Machine("n1-standard-4"), 1)]).hour
    t4 = estimate([(with_t4, 1)]).hour - plain
    assert t4 == pytest.approx(2 * 0.4025)


def test_an_l4_is_in_its_machines_price() -> None:
    bare, whole = Machine("g2-standard-8"), Machine("g2-standard-8", "NVIDIA_L4", 1)
    assert estimate([(bare, 1)]) == estimate([(whole, 1)])


def test_what_has_no_price_is_said() -> None:
    cost = estimate([(Machine("z9-giga-1"), 1), (Machine("e2-standard-2"), 1)])
    assert cost.unknown == ("z9-giga-1",)
    assert "z9-giga-1" in str(cost)
    assert "$0.08 an hour" in str(cost)


# The image


def test_the_fingerprint_covers_whatever_the_dockerfile_copies() -> None:
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    copied = [
        word
        for line in re.findall(r"^COPY (?!.*--from)(.+)$", text, re.MULTILINE)
        for word in line.split()[:-1]
        if not word.startswith("--")
    ]
    assert copied
    uncovered = [
        word
        for word in copied
        if not any(word.rstrip("/") == each or word.startswith(f"{each}/") for each in image.INPUTS)
        and not str(image.ARCHIVE).startswith(word.rstrip("/"))
        and "ARCHIVE" not in word
    ]
    assert uncovered == []


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
    with pytest.raises(Stop) as stop:
        image.fingerprint(tmp_path)
    assert stop.value.do == "make archive"
