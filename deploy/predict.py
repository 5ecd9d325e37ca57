"""Ask the model: one request, or a bucket full of instances."""

import base64
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy import versions
from deploy.errors import UserError

if TYPE_CHECKING:
    from deploy.gcp import Google

PICTURES = Path("build/model/held-out")
REQUEST = Path("build/deploy/request.json")
"""What `gcloud ai endpoints predict --json-request` is shown with."""


def body(source: Path | None) -> dict[str, Any]:
    """Return a request: a JSON file's, a picture's, or the first held-out picture's; raise Stop."""
    if source is None:
        source = min(PICTURES.glob("*.png"), default=None)
    if source is None:
        raise UserError(
            f"there is no picture in {PICTURES}", "make model, or name a picture or a request.json"
        )
    if not source.is_file():
        raise UserError(f"{source} does not exist", "name a picture, or a JSON file with instances")
    if source.suffix != ".json":
        return {"instances": [{"b64": base64.b64encode(source.read_bytes()).decode()}]}
    try:
        content = json.loads(source.read_text())
    except ValueError as error:
        raise UserError(f"{source} is not JSON: {error}", "mend it") from None
    instances = content.get("instances") if isinstance(content, dict) else None
    if not instances or not isinstance(instances, list):
        raise UserError(
            f'{source} is no request: {{"instances": [...], "parameters": {{...}}}}', "mend it"
        )
    return dict(content)


def predict(google: "Google", source: Path | None) -> None:
    """Send a request, print the answer as JSON."""
    content = body(source)
    if google.dry_run:
        count = len(content["instances"])
        google.say(f"would call PredictionService.Predict with {count} instances")
        return
    print(json.dumps(google.predict(content), indent=2))


def try_it(google: "Google", source: Path | None) -> None:
    """Send a real picture, and print the gcloud line that does the same."""
    s, content = google.settings, body(source)
    REQUEST.parent.mkdir(parents=True, exist_ok=True)
    REQUEST.write_text(json.dumps(content))
    began = time.monotonic()
    answer = google.predict(content)
    ms = (time.monotonic() - began) * 1000
    google.say(
        f"\n{json.dumps(answer['predictions'])}\n"
        f"  from deployed model {answer.get('deployedModelId')}, in {ms:.0f} ms. The same with gcloud:\n"
    )
    google.say(
        f"  gcloud ai endpoints predict {s.name} --project={s.project} --region={s.region} --json-request={REQUEST}\n"
    )


def batch_predict(  # noqa: PLR0913  an option each
    google: "Google", *, source: str, output: str, parameters: Any, version: str, replicas: int
) -> None:
    """Predict for every line of a JSONL file in a bucket; wait for it, and say where the answers lie."""
    for uri in (source, output):
        if not uri.startswith("gs://"):
            raise UserError(
                f"{uri} is not in Cloud Storage",
                "gs://BUCKET/PATH: Vertex AI reads and writes only there",
            )
    version = versions.chosen(google, version)
    name = google.start_batch(version, source, output, parameters, replicas)
    if google.dry_run:
        return
    google.say(
        f"→ {name.rsplit('/', 1)[-1]} (usually 10 minutes and more; Ctrl-C leaves it running)"
    )
    job = google.wait_for_batch(name)
    state, counts = google.batch_state(job), job.completion_stats
    if state != "SUCCEEDED":
        raise UserError(
            f"the job ended as {state.lower()}: {job.error.message}",
            "python -m deploy batch-predict with the same arguments tries again",
        )
    google.say(
        f"{counts.successful_count} predicted, {counts.failed_count} not; "
        f"the answers: {job.output_info.gcs_output_directory}"
    )
