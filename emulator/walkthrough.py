"""The whole story on one machine with no account: python -m emulator.walkthrough, or make rehearse.

Cloud Build, Artifact Registry, the model, the endpoint, predictions, a second version, canary, promote,
rollback, and back to nothing; with the real gcloud, a real registry and the real image.
"""

import argparse
import contextlib
import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from contract.docker import Docker, DockerError
from emulator import artifacts, processes
from emulator.config import EmulatorConfig
from emulator.stack import MissingProgramError, Stack, running

PROJECT, REGION = "rehearsal", "us-central1"
LOG = Path("build/rehearsal.log")
REQUEST = Path("build/rehearsal.json")
LOG_FORMAT = "%(asctime)s %(message)s"
STEP_S = 1200
TESTS = "tests/container -k wire_contract"
"""What of the image's tests Cloud Build runs here: enough to show that its step can; make test runs all."""


class StepFailedError(Exception):
    """A step of the story did not do what it must."""


class Walkthrough:
    """Runs the steps and shows them."""

    def __init__(self, stage: Stack) -> None:
        self.stage = stage
        self.env = {**os.environ, **stage.environment(PROJECT), "PYTHONUNBUFFERED": "1"}
        self.began = time.monotonic()

    def chapter(self, title: str) -> None:
        """Show where the story is."""
        print(f"\n── {title} ({time.monotonic() - self.began:.0f} s)", flush=True)

    def run(self, command: str, *, fails: bool = False) -> str:
        """Run a command line, show it with what it prints, and return that; raise Failed."""
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
        ending = threading.Timer(STEP_S, process.kill)
        ending.start()
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                if "Using endpoint [" not in line:
                    lines.append(line)
                    print(f"  {line}", end="", flush=True)
        ending.cancel()
        if (process.returncode != 0) != fails:
            raise StepFailedError(f"{command}: exit code {process.returncode}")
        return "".join(lines)

    def expect(self, what: bool, text: str) -> None:
        """Raise Failed where something is not as the story has it."""
        if not what:
            raise StepFailedError(text)


def with_gcloud(story: Walkthrough, image: str) -> None:
    """Go through upload, create, deploy, predict, undeploy and delete with nothing but gcloud."""
    where = f"by-hand --region={REGION}"
    listing = f"gcloud ai models list --region={REGION}"
    story.run(
        f"gcloud ai models upload --model-id={where} --display-name=by-hand --container-image-uri={image} "
        "--container-ports=8080 --container-health-route=/ping --container-predict-route=/predictions/digits"
    )
    story.run(f"gcloud ai endpoints create --endpoint-id={where} --display-name=by-hand")
    story.run(
        f"gcloud ai endpoints deploy-model {where} --model=by-hand --display-name=by-hand "
        "--machine-type=e2-standard-2 --min-replica-count=1 --max-replica-count=1 --traffic-split=0=100"
    )
    predict = f"gcloud ai endpoints predict {where} --json-request={REQUEST} --format=json"
    answer = json.loads(story.run(predict))
    complete = "deployedModelId" in answer and bool(answer["predictions"])
    story.expect(complete, "no predictions from gcloud")
    raw = story.run(
        f"gcloud ai endpoints raw-predict {where} --request=@{REQUEST} "
        "--http-headers=Content-Type=application/json"
    )
    same = json.loads(raw)["predictions"] == answer["predictions"]
    story.expect(same, "raw-predict answers otherwise than predict")
    story.run(f"gcloud ai endpoints delete {where}", fails=True)
    deployed = f"--deployed-model-id={answer['deployedModelId']}"
    story.run(f"gcloud ai endpoints undeploy-model {where} {deployed}")
    story.run(f"gcloud ai endpoints delete {where}")
    story.run(f"gcloud ai models delete {where}")
    story.expect("by-hand" not in story.run(listing), "the model is still there")


def with_deploy(story: Walkthrough) -> None:
    """Go through everything that make offers: a second version, canary, promote, rollback, teardown."""
    story.run(f"make -s deploy-endpoint PROJECT={PROJECT} REGION={REGION}")
    again = story.run("make -s deploy-endpoint")
    story.expect("nothing changed" in again, "run twice, it changed something")
    second = story.stage.folder / "second.toml"
    second.write_text(Path("deploy.toml").read_text() + '\nACCESS_LOG = "all"\n')
    options = f"--settings {second} --traffic 20 --watch 15s --max-error-rate 1% --max-p95 5s"
    with background_traffic(story.stage, PROJECT, REQUEST.read_bytes(), pause_s=0.05):
        story.run(f'make -s canary ARGS="{options}"')
    story.run("make -s status")
    story.run("make -s promote")
    story.run("make -s rollback")
    lines = [json.dumps(instance) for instance in json.loads(REQUEST.read_text())["instances"]]
    bucket = "rehearsal-batch"
    with artifacts.storage_client(story.stage.state.config) as storage:
        storage.create_bucket(bucket).blob("in.jsonl").upload_from_string("\n".join(lines))
    files = f"--input gs://{bucket}/in.jsonl --output gs://{bucket}/out"
    story.run(f"{sys.executable} -m deploy batch-predict --version 1 {files}")
    story.run('make -s teardown ARGS="--yes"')
    left = story.run("make -s status")
    story.expect("nothing is running" in left, "something is left that costs")


@contextlib.contextmanager
def background_traffic(
    stage: Stack, project: str, request: bytes, *, pause_s: float
) -> Iterator[None]:
    """Send a request to a project's endpoint again and again meanwhile, for a canary that is watched."""
    over = threading.Event()
    where = f"projects/{project}/locations/{REGION}/endpoints/digits:predict"

    def send() -> None:
        while not over.wait(pause_s):
            processes.send_request("POST", f"{stage.url}/v1/{where}", 90, data=request)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    yield
    over.set()
    thread.join(60)


def chapters(story: Walkthrough) -> Iterator[str]:
    """Tell the story, chapter by chapter."""
    held_out = json.loads(Path("build/model/held-out/instances.json").read_text())["instances"]
    REQUEST.write_text(json.dumps({"instances": held_out[:2], "parameters": {"top_k": 2}}))
    yield "Cloud Build: build, test, push, upload"
    story.run(f'make -s build-cloud PROJECT={PROJECT} REGION={REGION} ARGS="--serve upload"')
    repository = f"{REGION}-docker.pkg.dev/{PROJECT}/models"
    story.run(f"gcloud artifacts docker images list {repository} --include-tags")
    models = story.run(f"gcloud ai models list --region={REGION}")
    story.expect("digits" in models, "the build uploaded no model")
    image = f"{repository}/digits:latest"
    yield "gcloud"
    with_gcloud(story, image)
    yield "make deploy-endpoint, canary, promote, rollback, teardown"
    with_deploy(story)


@contextlib.contextmanager
def cleaned_up(docker: Docker) -> Iterator[None]:
    """Remove what cloudbuild.yaml leaves on the machine of a build, unless it was there before."""
    ci_image, checks = "ci-image", Path("/tmp/checks")  # noqa: S108  named there
    had_ci_image, had_checks = bool(docker("images", "--quiet", ci_image)), checks.exists()
    try:
        yield
    finally:
        if not had_ci_image:
            with contextlib.suppress(DockerError):
                docker("image", "rm", "--force", ci_image)
        if not had_checks:
            shutil.rmtree(checks, ignore_errors=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m emulator.walkthrough",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    docker = os.environ.get("DOCKER", "docker")
    parser.add_argument("--docker", default=docker, help="the client to use (%(default)s)")
    args = parser.parse_args()
    LOG.parent.mkdir(exist_ok=True)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, filename=LOG, filemode="w")
    try:
        config = EmulatorConfig(docker=args.docker, substitutions={"_TESTS": TESTS})
        with running(config) as stage, cleaned_up(config.engine):
            story = Walkthrough(stage)
            for title in chapters(story):
                story.chapter(title)
            print(
                f"\nThe whole story took {time.monotonic() - story.began:.0f} s. What the control plane saw: {LOG}"
            )
    except (MissingProgramError, StepFailedError) as error:
        sys.exit(f"rehearsal: {error}\n  what the control plane saw: {LOG}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
