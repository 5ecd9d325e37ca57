"""Run every command of this project against the emulator: python -m emulator.walkthrough, or make e2e.

Cloud Build, Artifact Registry, model, endpoint, predictions, second version, canary, promote, rollback and
teardown, with the real gcloud, a real registry and the image of the model. No account is needed.
"""

import argparse
import contextlib
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from contract.docker import DockerError
from emulator import artifacts, processes
from emulator.config import EmulatorConfig
from emulator.errors import EmulatorError
from emulator.stack import Stack, running
from project.model_folder import VARIABLE, Model, ModelFolderError, add_model_option, find_model

PROJECT, REGION = "emulator", "us-central1"
LOG = Path("build/e2e.log")
MAKE_VARIABLES = ("ARGS", "MAKEFLAGS", "MFLAGS", "MAKELEVEL")
"""Variables of the make that runs this program, which the make of a command would use."""
LOG_FORMAT = "%(asctime)s %(message)s"
COMMAND_TIMEOUT_S = 1200
FAILED_STEP_LINES = 40
"""Number of lines of a failed build step's log that are printed."""


class StepFailedError(EmulatorError):
    """A command of the walkthrough failed or had the wrong effect."""


class Walkthrough:
    """Runs commands against the emulator and prints them with their output."""

    def __init__(self, stack: Stack, model: Model) -> None:
        self.stack, self.model = stack, model
        inherited = {
            name: value for name, value in os.environ.items() if name not in MAKE_VARIABLES
        }
        self.env = {
            **inherited,
            **stack.environment(PROJECT),
            VARIABLE: str(model.path),
            "PYTHONUNBUFFERED": "1",
            # deploy.toml may have others.
            "DEPLOY_NAME": model.name,
            "DEPLOY_PREDICT_ROUTE": model.predict_route,
        }
        self.start = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the walkthrough started."""
        return time.monotonic() - self.start

    def print_heading(self, title: str) -> None:
        """Print the heading of a section."""
        print(f"\n── {title} ({self.elapsed_s:.0f} s)", flush=True)

    def run(self, command: str, *, fails: bool = False) -> str:
        """Run a command and return its output; raise StepFailedError.

        If the command fails because a step of an emulated build failed, print the end of the step's log.
        """
        print(f"\n$ {command}", flush=True)
        lines = []
        process = subprocess.Popen(
            shlex.split(command),
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        timeout = threading.Timer(COMMAND_TIMEOUT_S, process.kill)
        timeout.start()
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                if "Using endpoint [" not in line:
                    lines.append(line)
                    print(f"  {line}", end="", flush=True)
        timeout.cancel()
        if (process.returncode != 0) != fails:
            self._print_failed_steps()
            raise StepFailedError(f"{command}: exit code {process.returncode}")
        return "".join(lines)

    def check(self, condition: bool, message: str) -> None:
        """Raise StepFailedError with the message if the condition is false."""
        if not condition:
            raise StepFailedError(message)

    def _print_failed_steps(self) -> None:
        for step in self.stack.state.failed_steps:
            lines = step.log.splitlines()[-FAILED_STEP_LINES:]
            print(f"\nBuild step {step.name} failed. The last {len(lines)} lines of its log:")
            print("\n".join(f"  | {line}" for line in lines), flush=True)


def run_with_gcloud(walkthrough: Walkthrough, image: str) -> None:
    """Upload, create, deploy, predict, undeploy and delete with gcloud only."""
    run, check, model = walkthrough.run, walkthrough.check, walkthrough.model
    name = f"by-hand --region={REGION}"
    run(
        f"gcloud ai models upload --model-id={name} --display-name=by-hand --container-image-uri={image} "
        "--container-ports=8080 --container-health-route=/ping "
        f"--container-predict-route={model.predict_route}"
    )
    run(f"gcloud ai endpoints create --endpoint-id={name} --display-name=by-hand")
    run(
        f"gcloud ai endpoints deploy-model {name} --model=by-hand --display-name=by-hand "
        "--machine-type=e2-standard-2 --min-replica-count=1 --max-replica-count=1 --traffic-split=0=100"
    )
    options = f"--json-request={model.request} --format=json"
    response = json.loads(run(f"gcloud ai endpoints predict {name} {options}"))
    check("deployedModelId" in response and response["predictions"], "predict: no predictions")
    raw = run(
        f"gcloud ai endpoints raw-predict {name} --request=@{model.request} "
        "--http-headers=Content-Type=application/json"
    )
    # Not compared with those of predict: a model may sample.
    check(bool(json.loads(raw)["predictions"]), "raw-predict: no predictions")
    run(f"gcloud ai endpoints delete {name}", fails=True)
    deployed = f"--deployed-model-id={response['deployedModelId']}"
    run(f"gcloud ai endpoints undeploy-model {name} {deployed}")
    run(f"gcloud ai endpoints delete {name}")
    run(f"gcloud ai models delete {name}")
    models = run(f"gcloud ai models list --region={REGION}")
    check("by-hand" not in models, "the deleted model is still listed")


def run_with_make(walkthrough: Walkthrough) -> None:
    """Deploy, then a second version as canary, promote, rollback, batch prediction and teardown."""
    run, check, model = walkthrough.run, walkthrough.check, walkthrough.model
    run(f"make -s deploy-endpoint PROJECT={PROJECT} REGION={REGION}")
    output = run("make -s deploy-endpoint")
    check("nothing changed" in output, "the second make deploy-endpoint changed something")
    second = walkthrough.stack.folder / "second.toml"
    second.write_text(add_variable(Path("deploy.toml").read_text(), 'ACCESS_LOG = "all"'))
    options = f"--settings {second} --traffic 20 --watch 15s --max-error-rate 1% --max-p95 5s"
    request = model.request.read_bytes()
    with background_traffic(walkthrough.stack, PROJECT, model.name, request, pause_s=0.05):
        run(f'make -s canary ARGS="{options}"')
    run("make -s status")
    run("make -s promote")
    run("make -s rollback")
    run(f"{sys.executable} -m deploy predict")
    lines = [json.dumps(each["instance"]) for each in json.loads(model.requests.read_text())]
    bucket = "emulator-batch"
    with artifacts.storage_client(walkthrough.stack.state.config) as storage:
        storage.create_bucket(bucket).blob("in.jsonl").upload_from_string("\n".join(lines))
    files = f"--input gs://{bucket}/in.jsonl --output gs://{bucket}/out"
    run(f"{sys.executable} -m deploy batch-predict --version 1 {files}")
    run('make -s teardown ARGS="--yes"')
    status = run("make -s status")
    check("nothing is running" in status, "resources are left after the teardown")


def add_variable(settings: str, line: str) -> str:
    """Return the text of a deploy.toml with a line in its table of variables."""
    table = f"[env]\n{line}\n"
    text, count = re.subn(r"^\[env\]\n", table, settings, count=1, flags=re.MULTILINE)
    return text if count else f"{settings}\n{table}"


@contextlib.contextmanager
def background_traffic(
    stack: Stack, project: str, name: str, request: bytes, *, pause_s: float
) -> Iterator[None]:
    """Send a request to a project's endpoint repeatedly, so that a canary has traffic to analyze."""
    stopped = threading.Event()
    endpoint = f"projects/{project}/locations/{REGION}/endpoints/{name}"

    def send() -> None:
        while not stopped.wait(pause_s):
            url = f"{stack.url}/v1/{endpoint}:predict"
            processes.send_request("POST", url, 90, data=request)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    yield
    stopped.set()
    thread.join(60)


def run_all(walkthrough: Walkthrough) -> None:
    """Run all sections of the walkthrough."""
    name = walkthrough.model.name
    walkthrough.print_heading("Cloud Build: build, test, push, upload")
    walkthrough.run(f'make -s build-cloud PROJECT={PROJECT} REGION={REGION} ARGS="--serve upload"')
    repository = f"{REGION}-docker.pkg.dev/{PROJECT}/models"
    walkthrough.run(f"gcloud artifacts docker images list {repository} --include-tags")
    models = walkthrough.run(f"gcloud ai models list --region={REGION}")
    walkthrough.check(name in models, "the build uploaded no model")
    walkthrough.print_heading("gcloud")
    run_with_gcloud(walkthrough, f"{repository}/{name}:latest")
    walkthrough.print_heading("make deploy-endpoint, canary, promote, rollback, teardown")
    run_with_make(walkthrough)


@contextlib.contextmanager
def build_leftovers_removed() -> Iterator[None]:
    """Remove the folder that cloudbuild.yaml leaves behind, unless it existed before."""
    checks = Path("/tmp/checks")  # noqa: S108  named there
    existed = checks.exists()
    try:
        yield
    finally:
        if not existed:
            shutil.rmtree(checks, ignore_errors=True)


def main() -> None:
    """Start the emulator and run the walkthrough; exit with 1 and a message if it fails."""
    parser = argparse.ArgumentParser(
        prog="python -m emulator.walkthrough",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    docker = os.environ.get("DOCKER", "docker")
    text = "Docker client, name or path (default: %(default)s)"
    parser.add_argument("--docker", default=docker, help=text)
    add_model_option(parser)
    text = "tests that Cloud Build runs on the image, such as tests/container (default: none)"
    parser.add_argument("--tests", default="", help=text)
    args = parser.parse_args()
    LOG.parent.mkdir(exist_ok=True)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, filename=LOG, filemode="w")
    try:
        model = find_model(args.model)
        if not model.request.is_file():
            sys.exit(f"e2e: {model.request} does not exist; run: make archive")
        config = EmulatorConfig(docker=args.docker, substitutions={"_TESTS": args.tests})
        with running(config) as stack, build_leftovers_removed():
            walkthrough = Walkthrough(stack, model)
            run_all(walkthrough)
            print(f"\nAll steps passed in {walkthrough.elapsed_s:.0f} s. The emulator's log: {LOG}")
    except ModelFolderError as error:
        sys.exit(f"e2e: {error}")
    except (EmulatorError, DockerError) as error:
        sys.exit(f"e2e: {error}\n  the emulator's log: {LOG}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
