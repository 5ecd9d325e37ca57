"""Tests that every command refuses an invalid setting at once: where it is, what was found and what was expected."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from google.cloud import aiplatform_v1 as v1
from google.cloud.aiplatform.constants import base

from deploy import cost, machines, places
from deploy.__main__ import main
from deploy.clients import CloudClients
from deploy.gke import __main__ as gke
from emulator import machines as emulated_machines
from emulator.errors import ApiError
from tests.images import ROOT
from tests.programs import Result, run_main

PAGE = (ROOT / "docs" / "settings.md").read_text()
L4, T4 = 'accelerator_type = "NVIDIA_L4"', 'accelerator_type = "NVIDIA_TESLA_T4"'
H100 = "machine_type = 'a3-highgpu-8g'\naccelerator_type = 'NVIDIA_H100_80GB'"
V100 = "machine_type = 'n1-standard-4'\naccelerator_type = 'NVIDIA_TESLA_V100'"
PART = "gpu_partition_size = '1g.10gb'"
IMAGE = "us-central1-docker.pkg.dev/my-project/models/digits"
INVALID = {
    # deploy.toml → what was found and what was expected
    "mashine_type = 'e2'": "unknown setting 'mashine_type'; did you mean machine_type?",
    '"a\\nb" = 1': "unknown setting 'a\\nb'",
    "name = ": "is not TOML",
    "name = 'a'\nname = 'b'": "is not TOML",
    f"name = {'[' * 5000}": "is not TOML",
    "project = 'My Project'": "project = 'My Project' should be a project ID",
    "project = 'short'": "project = 'short' should be a project ID",
    "project = '123'": "project = '123' should be a project ID",
    "project = 7": "project = 7 should be a valid string",
    "region = 'Belgium'": "region = 'Belgium' should be a region of Vertex AI such as us-central1",
    "region = 'mars-north1'": "region = 'mars-north1' should be a region of Vertex AI",
    "region = 'us-centrall1'": "; did you mean us-central1?",
    "region = 'us-central1-a'": "; did you mean us-central1?",
    "region = 'us'": "region = 'us' should be a region of Vertex AI",
    "region = 'global'": "region = 'global' should be a region of Vertex AI",
    "name = 'Digits'": "name = 'Digits' should be 2 to 63 lowercase letters, digits and hyphens",
    "name = 'd'": "name = 'd' should be 2 to 63 lowercase letters",
    "name = 'digits-'": "name = 'digits-' should be 2 to 63 lowercase letters, digits and hyphens, a letter "
    "first and no hyphen last",
    "name = '1digits'": "name = '1digits' should be",
    "name = 'a_b'": "name = 'a_b' should be",
    "name = 'é1'": "name = 'é1' should be",
    f"name = '{'a' * 64}'": "should be 2 to 63 lowercase letters",
    "name = ''": "name = '' should be 2 to 63",
    "name = true": "name = True should be a valid string",
    "name = ['digits']": "name = ['digits'] should be a valid string",
    "name = 2026-11-26": "name = datetime.date(2026, 11, 26) should be a valid string",
    "repository = 'Models'": "repository = 'Models' should be at most 63 lowercase letters",
    "repository = 'a/b'": "repository = 'a/b' should be",
    "registry = 'https://x'": "registry = 'https://x' should be HOST or HOST:PORT, without https://",
    "registry = 'x y'": "registry = 'x y' should be HOST",
    "registry = 'docker.io'": "registry = 'docker.io' should be us-central1-docker.pkg.dev",
    "image = 'digits:1'": "image = 'digits:1' should be us-central1-docker.pkg.dev/PROJECT/REPOSITORY/NAME",
    "image = 'https://x/y/z/w:'": "image = 'https://x/y/z/w:' should be HOST/PROJECT/REPOSITORY/NAME",
    f"image = '{IMAGE}:'": "should be HOST/PROJECT/REPOSITORY/NAME",
    f"image = '{IMAGE}@sha256:12'": "should be HOST/PROJECT/REPOSITORY/NAME",
    "image = 'docker.io/me/models/digits:1'": "should be us-central1-docker.pkg.dev/PROJECT",
    f"image = '{IMAGE}'\nregion = 'europe-west4'": "is in us-central1, but region = 'europe-west4'",
    "image = 'us-docker.pkg.dev/my-project/models/digits'": "is in us, but region = 'us-central1'",
    "image = 'us-central1-docker.pkg.dev/my-project/digits'": "/PROJECT/REPOSITORY/NAME",
    "machine_type = 'e2-standrad-2'": "machine_type = 'e2-standrad-2' should be a machine type in "
    "deploy/machines.toml such as e2-standard-2; did you mean e2-standard-2?",
    "machine_type = 'E2 STANDARD'": "machine_type = 'E2 STANDARD' should be a machine type",
    "machine_type = 'n1-highcpu-3'": "machine_type = 'n1-highcpu-3' should be a machine type",
    "machine_type = 'banana-99'": "machine_type = 'banana-99' should be a machine type",
    "machine_type = 'g2-standard-8'": "machine_type = 'g2-standard-8' without its accelerator, NVIDIA_L4",
    "accelerator_type = 'T4'": "accelerator_type = 'T4' should be an accelerator in deploy/machines.toml",
    "accelerator_type = 'NVIDIA_TESLA_T5'": "; did you mean NVIDIA_TESLA_T4?",
    "accelerator_type = 'TPU_V3'": "accelerator_type = 'TPU_V3' should be an accelerator",
    "accelerator_count = 1": "accelerator_count = 1 without an accelerator_type",
    "accelerator_count = -1": "accelerator_count = -1 should be greater than or equal to 0",
    L4: "accelerator_type = 'NVIDIA_L4' without an accelerator_count",
    f"{T4}\naccelerator_count = 1": "'NVIDIA_TESLA_T4' does not fit machine_type = 'e2-standard-2'",
    f"{L4}\naccelerator_count = 1\nmachine_type = 'n1-standard-4'": "does not fit machine_type",
    f"{T4}\naccelerator_count = 3\nmachine_type = 'n1-standard-4'": "accelerator_count = 3 does not fit "
    "machine_type = 'n1-standard-4'",
    f"{T4}\naccelerator_count = 1\nmachine_type = 'n1-standard-32'": "accelerator_count = 1 does not fit",
    f"{L4}\naccelerator_count = 2\nmachine_type = 'g2-standard-8'": "accelerator_count = 2 does not fit",
    f"{L4}\naccelerator_count = 1\nmachine_type = 'g2-standard-8'\nregion = 'europe-north1'": "accelerator_type = "
    "'NVIDIA_L4' is not available in region = 'europe-north1'",
    f"{H100}\naccelerator_count = 9": "accelerator_count = 9 does not fit machine_type = 'a3-highgpu-8g'",
    f"{H100}\naccelerator_count = 2\n{PART}": "accelerator_count = 2 with gpu_partition_size = '1g.10gb'",
    f"{H100}\naccelerator_count = 1\ngpu_partition_size = '1g.5gb'": "gpu_partition_size = '1g.5gb' is no part of "
    "NVIDIA_H100_80GB",
    f"{L4}\naccelerator_count = 1\nmachine_type = 'g2-standard-8'\n{PART}": "gpu_partition_size = '1g.10gb': NVIDIA_L4 "
    "cannot be divided",
    f"{V100}\naccelerator_count = 1": "'NVIDIA_TESLA_V100': the locked torch is for CUDA 13, which does not support it",
    PART: "gpu_partition_size = '1g.10gb' has no effect without accelerator_type",
    "gpu_partition_size = 'half'": "gpu_partition_size = 'half' should be a size of a part of a GPU such as 1g.10gb",
    "gpu_max_shared_clients = 2": "gpu_max_shared_clients = 2 has no effect on Vertex AI, only on GKE",
    "gpu_max_shared_clients = 1": "gpu_max_shared_clients = 1 should be 0, or 2 to 48",
    "gpu_max_shared_clients = 49": "gpu_max_shared_clients = 49 should be 0, or 2 to 48",
    "min_replicas = '1'": "min_replicas = '1' should be a valid integer",
    "min_replicas = -1": "min_replicas = -1 should be greater than or equal to 0",
    "max_replicas = 0": "max_replicas = 0 should be greater than or equal to 1",
    "min_replicas = true": "min_replicas = True should be a valid integer",
    "min_replicas = 1.0": "min_replicas = 1.0 should be a valid integer",
    "min_replicas = nan": "min_replicas = nan should be a valid integer",
    f"min_replicas = {'9' * 30}": "should be less than or equal to 1000",
    "max_replicas = 1001": "max_replicas = 1001 should be less than or equal to 1000",
    "min_replicas = 3\nmax_replicas = 2": "max_replicas = 2 is less than min_replicas = 3",
    "cpu_percent = 0": "cpu_percent = 0 should be greater than or equal to 1",
    "cpu_percent = 101": "cpu_percent = 101 should be less than or equal to 100",
    "cpu_percent = 0.6": "cpu_percent = 0.6 should be a valid integer",
    "dedicated = 'yes'": "dedicated = 'yes' should be a valid boolean",
    "dedicated = 1": "dedicated = 1 should be a valid boolean",
    "service_account = 'x@y'": "service_account = 'x@y' should be a service account such as",
    "service_account = 'me@example.com'": "service_account = 'me@example.com' should be a service account",
    "service_account = 'serving'": "service_account = 'serving' should be a service account",
    "build_service_account = 'a b@p.iam.gserviceaccount.com'": "should be a service account",
    "builder = 'here'": "builder = 'here' should be 'auto', 'cloud' or 'local'",
    "artifact_uri = 's3://x'": "artifact_uri = 's3://x' should be gs://BUCKET/FOLDER",
    "artifact_uri = 'gs://'": "artifact_uri = 'gs://' should be gs://BUCKET/FOLDER",
    "artifact_uri = 'gs://Upper/x'": "artifact_uri = 'gs://Upper/x' should be gs://BUCKET/FOLDER",
    "artifact_uri = 'gs://bucket/*'": "artifact_uri = 'gs://bucket/*' should be gs://BUCKET/FOLDER",
    "port = 0": "port = 0 should be greater than or equal to 1",
    "port = 65536": "port = 65536 should be less than or equal to 65535",
    "health_route = 'ping'": "health_route = 'ping' should be a path that starts with /",
    "health_route = '/pi ng'": "health_route = '/pi ng' should be a path that starts with /",
    "health_route = '/ping?x=1'": "health_route = '/ping?x=1' should be a path",
    'health_route = "/ping\\n"': "health_route = '/ping\\n' should be a path",
    "health_route = '//ping'": "health_route = '//ping' should be a path without //",
    "health_route = '/a/../b'": "health_route = '/a/../b' should be a path without //, /. and /..",
    "predict_route = ''": "predict_route = '' should be a path that starts with /",
    "predict_route = '/ping'": "health_route and predict_route are both '/ping'",
    "shared_memory_mb = -5": "shared_memory_mb = -5 should be greater than or equal to 0",
    "wait_minutes = 0": "wait_minutes = 0 should be greater than or equal to 1",
    "api_endpoint = 'localhost:1'": "api_endpoint = 'localhost:1' should be http://HOST:PORT",
    "api_endpoint = 'http://h:1/x'": "api_endpoint = 'http://h:1/x' should be http://HOST:PORT",
    "env = 'A=1'": "env = 'A=1' should be a valid dictionary",
    "[env]\nA = 1": "env.A = 1 should be a valid string",
    "[env]\n'A B' = '1'": "env should not contain 'A B': expected letters, digits and _",
    "[env]\n1A = '1'": "env should not contain '1A'",
    "[env]\n'A=B' = '1'": "env should not contain 'A=B'",
    "[env]\n'' = '1'": "env should not contain ''",
    "[env]\nAIP_HTTP_PORT = '1'": "env should not contain AIP_HTTP_PORT, which Vertex AI sets itself",
    '[env]\nA = "a\\u0000b"': "A should have at most",
    "[env]\nRESPONSE_TIMEOUT_S = '1 h'": "RESPONSE_TIMEOUT_S = '1 h' should be seconds from 1 to 3600",
    "[env]\nRESPONSE_TIMEOUT_S = '3601'": "RESPONSE_TIMEOUT_S = '3601' should be seconds from 1 to 3600",
    "[env]\nRESPONSE_TIMEOUT_S = '²'": "RESPONSE_TIMEOUT_S = '²' should be seconds",
    "[env]\nRESPONSE_TIMEOUT_S = '61'": "RESPONSE_TIMEOUT_S = 61: a shared endpoint waits 60 s at most",
    "labels = 'team=a'": "labels = 'team=a' should be a valid dictionary",
    "[labels]\nTeam = 'a'": "labels should not contain the key 'Team': expected lowercase letters",
    "[labels]\n1 = 'a'": "labels should not contain the key '1'",
    "[labels]\nteam = 'A b'": "labels should not contain team = 'A b': expected lowercase letters",
    f"[labels]\nteam = '{'a' * 64}'": "labels should not contain team = ",
    "[labels]\ngoal = 'x'": "labels should not contain goal, which deploy sets itself",
    "[labels]\nteam = 1": "labels.team = 1 should be a valid string",
    "kms_key = 'my-key'": "kms_key = 'my-key' should be projects/PROJECT/locations/REGION/keyRings/RING",
    "kms_key = 'projects/p/locations/europe-west4/keyRings/r/cryptoKeys/k'": "kms_key is in europe-west4, but "
    "region = 'us-central1'",
    "psc_projects = 'P'": "psc_projects.0 = 'P' should be a project ID",
    "psc_projects = [1]": "psc_projects.0 = 1 should be a valid string",
    "psc_projects = ['my-project']\ndedicated = true": "psc_projects and dedicated are both set",
    "psc_network = 'default'": "psc_network = 'default' should be projects/PROJECT/global/networks",
    "psc_network = 'projects/my-project/global/networks/n'": "has no effect without psc_projects",
    "network = 'projects/my-project/global/networks/n'": "should be projects/PROJECT_NUMBER/global/networks",
    "network = 'projects/12/global/networks/n'\npsc_projects = ['my-project']": "are both set",
    "inference_timeout_s = 3601": "inference_timeout_s = 3601 should be less than or equal to 3600",
    "inference_timeout_s = 100": "inference_timeout_s = 100: a shared endpoint waits 60 s",
    "dedicated = true\ninference_timeout_s = 90\n[env]\nRESPONSE_TIMEOUT_S = '100'": "is less than RESPONSE_TIMEOUT_S",
    "request_log_percent = 101.0": "request_log_percent = 101.0 should be less than or equal to 100",
    "request_log_percent = nan": "request_log_percent = nan should be a finite number",
    "request_log_percent = '1%'": "request_log_percent = '1%' should be a valid number",
    "request_log_table = 'p.d.t'": "request_log_table = 'p.d.t' should be bq://PROJECT",
    "request_log_table = 'bq://my-project.d.t'": "has no effect without request_log_percent",
    "gpu_percent = 50": "gpu_percent = 50 has no effect without accelerator_type",
    "requests_per_minute = -1": "requests_per_minute = -1 should be greater than or equal to 0",
    "idle_minutes = 4": "idle_minutes = 4 should be greater than or equal to 5",
    "idle_minutes = 481": "idle_minutes = 481 should be less than or equal to 480",
    "idle_minutes = 30": "idle_minutes = 30 has no effect without min_replicas = 0",
    "reservation = 'mine'": "reservation = 'mine' should be any, or projects/PROJECT/zones/ZONE/reservations/",
    "reservation = 'any'\nspot = true": "reservation and spot are both set",
    "max_surge = 2": "max_surge = 2 has no effect without rolling = true",
    "rolling = true\nmax_surge = 0": "max_surge and max_unavailable are both 0",
    "deployment_timeout_minutes = 121": "deployment_timeout_minutes = 121 should be less than or equal to 120",
    "container_logging = 'no'": "container_logging = 'no' should be a valid boolean",
    "startup_probe = '/ping'": "startup_probe = '/ping' should be a valid dictionary",
    "[startup_probe]\nperiod_s = 5": "startup_probe should have either path or command",
    "[startup_probe]\npath = '/p'\ncommand = ['true']": "startup_probe should have either path or command",
    "[health_probe]\npath = 'p q'": "health_probe.path = 'p q' should be a path that starts with /",
    "[health_probe]\npath = '/p'\ntimeout_s = 5": "should have a timeout_s of at least its period_s = 10",
    "[liveness_probe]\ncommand = 'true'": "liveness_probe.command = 'true' should be a valid list",
    "[liveness_probe]\ncommand = ['true']\nretries = 3": "liveness_probe.retries",
    "[sources]\npath = 'x'": "unknown setting 'sources'",
    "origins = {}": "unknown setting 'origins'",
}
VALID = (
    "name = 'd1'",
    "repository = 'm'",
    "machine_type = 'c3-highmem-176'",
    f"{T4}\naccelerator_count = 2\nmachine_type = 'n1-highmem-32'",
    f"{L4}\naccelerator_count = 1\nmachine_type = 'g2-standard-4'",
    f"{H100}\naccelerator_count = 3",
    f"{V100}\naccelerator_count = 1\ntorch = 'torch==2.13.0+cu126'",
    f"{H100}\naccelerator_count = 1\n{PART}",
    f"image = '{IMAGE}:v1'",
    f"image = '{IMAGE}@sha256:{'0' * 64}'",
    "image = 'us-docker.pkg.dev/vertex-ai/prediction/pytorch-gpu.2-4:latest'",
    "service_account = '123-compute@developer.gserviceaccount.com'",
    "service_account = 'serving@my-project.iam.gserviceaccount.com'",
    "health_route = '/v1/endpoints/1/health:check'",
    "dedicated = true\n[env]\nRESPONSE_TIMEOUT_S = '3600'",
    "artifact_uri = 'gs://my_bucket/a/b'",
    "min_replicas = 0\nidle_minutes = 30",
    "psc_projects = ['my-project', 'another-project']",
    "network = 'projects/12/global/networks/default'",
    "dedicated = true\ninference_timeout_s = 3600",
    "request_log_percent = 0.5\nrequest_log_table = 'bq://my-project.logs'",
    "reservation = 'projects/my-project/zones/us-central1-a/reservations/mine'",
    "kms_key = 'projects/p/locations/us-central1/keyRings/r/cryptoKeys/k'",
    "[labels]\nteam = 'größe-1'",
    "[startup_probe]\npath = '/ping'\nfailures = 100\n[liveness_probe]\ncommand = ['test', '-f', '/tmp/x']",
    "\ufeffname = 'with-a-byte-order-mark'",
)
VALID_ELSEWHERE = ("e2-micro", "e2-standard-64", "m1-ultramem-40", "custom-2-4096")
"""Machine types of Compute Engine that Vertex AI does not offer."""
INVALID_OPTIONS = {
    "status --machine-type e2-standrad-2": "--machine-type: machine_type = 'e2-standrad-2' should be",
    "status --min-replicas two": "--min-replicas: min_replicas = 'two' should be a valid integer",
    "status --port 8080.5": "--port: port = '8080.5' should be a valid integer",
    "status --region mars": "--region: region = 'mars' should be a region",
    "status --settings nothing.toml": "nothing.toml cannot be read: No such file",
    "status --settings .": ". cannot be read: Is a directory",
    "upload --accelerator-count 1": "--accelerator-count: accelerator_count = 1 without",
    "upload --image digits:1": "--image: image = 'digits:1' should be us-central1-docker.pkg.dev",
    "upload --min-replicas 9 --max-replicas 8": "--max-replicas: max_replicas = 8 is less than",
    "canary --traffic 0": "--traffic: '0' is not a whole percentage from 1 to 99",
    "canary --traffic 100%": "--traffic: '100%' is not a whole percentage from 1 to 99",
    "canary --traffic 0.5": "--traffic: '0.5' is not a whole percentage",
    "canary --traffic ²": "--traffic: '²' is not a percentage",
    "canary --watch ten": "--watch: 'ten' is not a time such as 10m or 1h",
    "canary --watch 10": "--watch: '10' is not a time such as",
    "canary --watch 0m": "--watch: '0m' is not a time above 0",
    "canary --watch 49h": "--watch: '49h' is not a time above 0 and up to 48h",
    "canary --watch 1e9h": "--watch: '1e9h' is not a time such as",
    "canary --max-error-rate 1 --watch 10m": "'1' is not a percentage such as 1% or 0.5%",
    "canary --max-error-rate 0.01 --watch 10m": "'0.01' is not a percentage such as",
    "canary --max-error-rate 100% --watch 10m": "'100%' is not a limit: expected less than 100%",
    "canary --max-error-rate many": "'many' is not a percentage",
    "canary --max-p95 fast": "--max-p95: 'fast' is not a time such as 300ms or 1.5s",
    "canary --max-p95 3": "--max-p95: '3' is not a time such as",
    "canary --max-p95 0ms": "--max-p95: '0ms' is not a time above 0",
    "upload --psc-projects a,b": "--psc-projects: psc_projects.0 = 'a' should be a project ID",
    "batch-predict --input gs://b/i --output gs://b/o --replicas 0": "'0' is not a number from 1 to",
    "batch-predict --input gs://b/i --output gs://b/o --parameters NaN": "'NaN' is not a JSON object",
    "batch-predict --input gs://b/i --output gs://b/o --parameters [1]": "'[1]' is not a JSON object",
}
INVALID_VARIABLES = {
    "DEPLOY_PORT=two": "DEPLOY_PORT: port = 'two' should be a valid integer",
    "DEPLOY_DEDICATED=2": "DEPLOY_DEDICATED: dedicated = '2' should be a valid boolean",
    "DEPLOY_MACHINE_TYPE=e2": "DEPLOY_MACHINE_TYPE: machine_type = 'e2' should be a machine type",
    "GOOGLE_CLOUD_PROJECT=a b": "GOOGLE_CLOUD_PROJECT: project = 'a b' should be a project ID",
    "MODEL=../nothing": "MODEL=../nothing",
    f"MODEL={'a' * 300}": "File name too long",
}


class AcceptedError(Exception):
    """The settings were accepted, and the command would have begun."""


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Result]:
    """Return a function that runs a command with a settings file, up to the first request."""
    for name in (
        "DEPLOY_PROJECT",
        "DEPLOY_REGION",
        "GOOGLE_CLOUD_PROJECT",
        "CLOUDSDK_CORE_PROJECT",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODEL", "tests/toy")
    monkeypatch.setattr(places, "FILE", tmp_path / "last.toml")

    def accept(*_: object, **__: object) -> None:
        raise AcceptedError

    monkeypatch.setattr(CloudClients, "create", accept)

    def run_command(line: str, text: str | None = None) -> Result:
        if text is not None:
            (tmp_path / "deploy.toml").write_text(text)
            line = f"{line} --settings {tmp_path}/deploy.toml"
        return run_main(main, line, capsys)

    return run_command


def check_refusal(done: Result, expected: str) -> None:
    assert done.code in (1, 2), done
    assert "Traceback" not in done.err
    message = done.err.strip().splitlines()[-1 if done.code == 2 else 0]
    assert expected in message


@pytest.mark.parametrize("text", INVALID)
def test_invalid_line_of_deploy_toml_is_refused_with_the_file_and_the_expected_value(
    run: Callable[..., Result], text: str
) -> None:
    done = run("upload --project my-project", text)
    check_refusal(done, INVALID[text])
    assert re.match(r"deploy: \S+/deploy\.toml[: ]", done.err)
    assert len(done.err.strip().splitlines()) == 2, "a message of one line and a hint of one line"


@pytest.mark.parametrize("text", VALID)
def test_valid_line_of_deploy_toml_is_accepted(run: Callable[..., Result], text: str) -> None:
    with pytest.raises(AcceptedError):
        run("upload --project my-project", text)


@pytest.mark.parametrize("text", re.findall(r"```toml\n(.+?)```", PAGE, re.DOTALL))
def test_example_of_the_page_is_accepted(run: Callable[..., Result], text: str) -> None:
    with pytest.raises(AcceptedError):
        run("upload --project my-project", text)


@pytest.mark.parametrize("line", INVALID_OPTIONS)
def test_invalid_option_is_refused_with_its_name(run: Callable[..., Result], line: str) -> None:
    check_refusal(run(f"{line} --project my-project"), INVALID_OPTIONS[line])


@pytest.mark.parametrize("variable", INVALID_VARIABLES)
def test_invalid_variable_is_refused_with_its_name(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(*variable.split("="))
    check_refusal(run("status"), INVALID_VARIABLES[variable])


def test_conflicting_settings_do_not_keep_a_command_from_showing_or_deleting(
    run: Callable[..., Result],
) -> None:
    for command in ("status", "teardown --yes", "undeploy --yes"):
        with pytest.raises(AcceptedError):
            run(f"{command} --project my-project --accelerator-count 1")


def test_image_for_gke_is_built_with_gpu_settings_that_vertex_ai_does_not_take(
    run: Callable[..., Result],
) -> None:
    line, gpu = "build --project my-project", f"{L4}\naccelerator_count = 1\n"
    with pytest.raises(AcceptedError):
        run(line, f"{gpu}gpu_max_shared_clients = 2\n")
    check_refusal(run(line, f"{gpu}registry = 'docker.io'\n"), "registry = 'docker.io' should be")


def test_image_in_another_region_can_be_deployed_to_gke(
    run: Callable[..., Result], capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"deploy --project my-project --region europe-west4 --image {IMAGE}"
    assert "is in us-central1, but region = 'europe-west4'" in run(line).err
    assert "no cluster given" in run_main(gke.main, line, capsys).err


def test_file_that_is_not_utf_8_is_refused(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe9'")
    done = run(f"status --project my-project --settings {tmp_path}/latin.toml")
    check_refusal(done, "latin.toml is not UTF-8")


def test_table_of_machines_has_the_regions_and_accelerators_of_the_sdk() -> None:
    table = machines.load_table()
    assert table.regions == base.SUPPORTED_REGIONS - {"global"}
    assert {each for each in v1.AcceleratorType.__members__ if each.startswith("NVIDIA")} == {
        *table.accelerator_types,
        "NVIDIA_TESLA_K80",  # no longer offered
    }
    prices = cost.load_prices()
    assert set(prices["machines"]) <= table.machine_types
    assert set(prices["accelerators"]) <= table.accelerator_types


def test_emulator_accepts_exactly_the_machines_and_accelerators_of_the_table() -> None:
    table = machines.load_table()
    for machine_type in table.machine_types:
        for name, numbers in {"": [0], **table.accelerators(machine_type)}.items():
            for number in numbers:
                spec = v1.MachineSpec(
                    machine_type=machine_type,
                    accelerator_type=name or None,
                    accelerator_count=number,
                )
                if not name and machine_type in table.accelerated:
                    with pytest.raises(ApiError):
                        emulated_machines.check(spec, "us-central1")
                else:
                    emulated_machines.check(spec, "us-central1")
    for machine_type in (*VALID_ELSEWHERE, "n1-standard-3"):
        assert machine_type not in table.machine_types
        with pytest.raises(ApiError):
            emulated_machines.check(v1.MachineSpec(machine_type=machine_type), "us-central1")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("region = 'europe-north1'", "use one of asia-northeast1, asia-northeast3, "),
        ("gpu_partition_size = '1g.5gb'", "use one of 1g.10gb, 1g.20gb, "),
    ],
)
def test_hint_names_the_regions_of_an_accelerator_and_the_sizes_of_its_parts(
    run: Callable[..., Result], line: str, expected: str
) -> None:
    done = run("upload --project my-project", f"{H100}\naccelerator_count = 1\n{line}\n")
    assert expected in done.err.splitlines()[-1]


def test_each_accelerator_has_known_regions_and_only_gpus_of_coscheduled_machines_have_parts() -> (
    None
):
    table = machines.load_table()
    assert table.accelerator_regions.keys() == table.accelerator_types
    assert all(table.regions.issuperset(each) for each in table.accelerator_regions.values())
    divided = {
        name
        for machine_type, (name, _) in table.accelerated.items()
        if table.is_coscheduled(machine_type)
    }
    assert table.partitions.keys() == divided
    assert table.quotas.keys() <= table.accelerator_types
    assert table.accelerator_types.issuperset(table.cuda_12)
    assert "nvidia-cudnn-cu13==" in (ROOT / "requirements" / "gpu.lock").read_text()
