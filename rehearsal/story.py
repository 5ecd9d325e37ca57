"""The whole story on one machine with no account: python -m rehearsal.story, or make rehearse.

Cloud Build, Artifact Registry, the model, the endpoint, predictions, a second version, canary, promote,
rollback, and back to nothing; with the real gcloud, the real SDK, a real registry and the real image.
"""

import argparse
import json
import logging
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rehearsal.stage import Missing, Stage, raised
from rehearsal.world import Rules

PROJECT, REGION = "rehearsal", "us-central1"
LOG = Path("build/rehearsal.log")
REQUEST = Path("build/rehearsal.json")
STEP_S = 1200


class Failed(Exception):
    """A step of the story did not do what it must."""


class Story:
    """Runs the steps and shows them."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.env = {**os.environ, **stage.environment(PROJECT), "PYTHONUNBUFFERED": "1"}
        self.began = time.monotonic()

    def chapter(self, title: str) -> None:
        """Show where the story is."""
        print(f"\n── {title} ({time.monotonic() - self.began:.0f} s)", flush=True)

    def run(self, command: str, *, fails: bool = False, **env: str) -> str:
        """Run a command line, show it with what it prints, and return that; raise Failed."""
        print(f"\n$ {command}", flush=True)
        lines = []
        words = shlex.split(command)
        process = subprocess.Popen(
            words,
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            stdin=subprocess.DEVNULL,
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
            raise Failed(f"{command}: exit code {process.returncode}")
        return "".join(lines)

    def expect(self, what: bool, text: str) -> None:
        """Raise Failed where something is not as the story has it."""
        if not what:
            raise Failed(text)


def with_gcloud(story: Story, image: str) -> None:
    """Go through upload, create, deploy, predict, undeploy and delete with nothing but gcloud."""
    where = f"--region={REGION}"
    story.run(
        f"gcloud ai models upload {where} --model-id=by-hand --display-name=by-hand --container-image-uri={image} "
        "--container-ports=8080 --container-health-route=/ping --container-predict-route=/predictions/digits"
    )
    story.run(f"gcloud ai endpoints create {where} --endpoint-id=by-hand --display-name=by-hand")
    story.run(
        f"gcloud ai endpoints deploy-model by-hand {where} --model=by-hand --display-name=by-hand "
        "--machine-type=e2-standard-2 --min-replica-count=1 --max-replica-count=1 --traffic-split=0=100"
    )
    answer = json.loads(
        story.run(
            f"gcloud ai endpoints predict by-hand {where} --json-request={REQUEST} --format=json"
        )
    )
    story.expect(
        "deployedModelId" in answer and bool(answer["predictions"]), "no predictions from gcloud"
    )
    print(f"\n  deployedModelId: {answer['deployedModelId']}")
    raw = story.run(
        f"gcloud ai endpoints raw-predict by-hand {where} --request=@{REQUEST} "
        "--http-headers=Content-Type=application/json"
    )
    story.expect(
        json.loads(raw)["predictions"] == answer["predictions"],
        "raw-predict answers otherwise than predict",
    )
    story.run(f"gcloud ai endpoints delete by-hand {where}", fails=True)
    story.run(
        f"gcloud ai endpoints undeploy-model by-hand {where} --deployed-model-id={answer['deployedModelId']}"
    )
    story.run(f"gcloud ai endpoints delete by-hand {where}")
    story.run(f"gcloud ai models delete by-hand {where}")
    story.expect(
        "by-hand" not in story.run(f"gcloud ai models list {where}"), "the model is still there"
    )


def with_deploy(story: Story) -> None:
    """Go through everything that make offers: a second version, canary, promote, rollback, teardown."""
    story.run(f"make -s deploy-endpoint PROJECT={PROJECT} REGION={REGION}")
    story.expect(
        "nothing changed" in story.run("make -s deploy-endpoint"), "run twice, it changed something"
    )
    second = story.stage.folder / "second.toml"
    second.write_text(Path("deploy.toml").read_text() + '\nACCESS_LOG = "all"\n')
    options = f"--settings {second}"
    with Asking(story):
        story.run(
            f'make -s canary ARGS="{options} --traffic 20 --watch 15s --max-error-rate 1% --max-p95 5s"'
        )
    story.run("make -s status")
    story.run("make -s promote")
    story.run("make -s rollback")
    lines = [json.dumps(instance) for instance in json.loads(REQUEST.read_text())["instances"]]
    _upload(story, "rehearsal-batch", "in.jsonl", "\n".join(lines))
    story.run(
        f"{sys.executable} -m deploy batch-predict --version 1 --input gs://rehearsal-batch/in.jsonl --output gs://rehearsal-batch/out"
    )
    story.run('make -s teardown ARGS="--yes"')
    left = story.run("make -s status")
    story.expect("nothing runs, nothing costs" in left, "something is left that costs")


def with_sdk(story: Story, image: str) -> None:
    """Go through the same with the Python SDK."""
    told = story.run(
        f"{sys.executable} -m rehearsal.sdk {image} --api-endpoint {story.stage.url} --project {PROJECT} "
        f"--request {REQUEST}"
    )
    story.expect(
        "version 2 answered 4" in told and "left: 0 endpoints, 0 models" in told,
        "the SDK's story ends otherwise",
    )


class Asking:
    """Clients that ask while a canary is watched."""

    def __init__(self, story: Story) -> None:
        self.story, self.over = story, threading.Event()

    def __enter__(self) -> None:
        self.thread = threading.Thread(target=self._ask, daemon=True)
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join(10)

    def _ask(self) -> None:
        import requests  # noqa: PLC0415

        url = f"{self.story.stage.url}/v1/projects/{PROJECT}/locations/{REGION}/endpoints/digits:predict"
        while not self.over.wait(0.05):
            requests.post(
                url,
                data=REQUEST.read_bytes(),
                headers={"Content-Type": "application/json"},
                timeout=60,
            )


def _upload(story: Story, bucket: str, name: str, content: str) -> None:
    from rehearsal import artifacts  # noqa: PLC0415

    with artifacts.client(story.stage.world.rules) as storage:
        storage.create_bucket(bucket).blob(name).upload_from_string(content)


def chapters(story: Story) -> Iterator[str]:
    """Tell the story, chapter by chapter."""
    held_out = json.loads(Path("build/model/held-out/instances.json").read_text())["instances"]
    REQUEST.write_text(json.dumps({"instances": held_out[:2], "parameters": {"top_k": 2}}))
    yield "Cloud Build: build, test, push, upload"
    story.run(f'make -s build-cloud PROJECT={PROJECT} REGION={REGION} ARGS="--serve upload"')
    story.run(
        f"gcloud artifacts docker images list {REGION}-docker.pkg.dev/{PROJECT}/models --include-tags"
    )
    story.expect(
        "digits" in story.run(f"gcloud ai models list --region={REGION}"),
        "the build uploaded no model",
    )
    image = f"{REGION}-docker.pkg.dev/{PROJECT}/models/digits:latest"
    yield "gcloud"
    with_gcloud(story, image)
    yield "The Python SDK"
    with_sdk(story, image)
    yield "make deploy-endpoint, canary, promote, rollback, teardown"
    with_deploy(story)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rehearsal.story",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--docker", default=os.environ.get("DOCKER", "docker"), help="(%(default)s)"
    )
    args = parser.parse_args()
    LOG.parent.mkdir(exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        filename=LOG,
        filemode="w",
    )
    try:
        with raised(Rules(docker=args.docker)) as stage:
            story = Story(stage)
            for title in chapters(story):
                story.chapter(title)
            print(
                f"\nThe whole story took {time.monotonic() - story.began:.0f} s. What the control plane saw: {LOG}"
            )
    except (Missing, Failed) as error:
        sys.exit(f"rehearsal: {error}\n  what the control plane saw: {LOG}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
