"""Online predictions: one request to the endpoint."""

import base64
import json
import time
from pathlib import Path
from typing import Any

from deploy.clients import CloudClients
from deploy.errors import UserError

HELD_OUT = Path("build/model/held-out")
REQUEST = Path("build/deploy/request.json")
"""The smoke test's request, for `gcloud ai endpoints predict --json-request`."""


def predict(cloud: CloudClients, source: Path | None) -> None:
    """Send a request, and print the response as JSON."""
    request = build_request(source)
    if cloud.dry_run:
        count = len(request["instances"])
        cloud.report(f"would call PredictionService.Predict with {count} instances")
        return
    print(json.dumps(cloud.vertex.predict(request), indent=2))


def smoke_test(cloud: CloudClients, source: Path | None) -> None:
    """Send a request, and report the predictions and the gcloud command for the same request."""
    s, request = cloud.settings, build_request(source)
    REQUEST.parent.mkdir(parents=True, exist_ok=True)
    REQUEST.write_text(json.dumps(request))
    started_s = time.monotonic()
    response = cloud.vertex.predict(request)
    ms = (time.monotonic() - started_s) * 1000
    cloud.report(
        f"\n{json.dumps(response['predictions'])}\n"
        f"  from deployed model {response.get('deployedModelId')} in {ms:.0f} ms; the same request with gcloud:\n"
    )
    cloud.report(
        f"  gcloud ai endpoints predict {s.name} --project={s.project} --region={s.region} --json-request={REQUEST}\n"
    )


def build_request(source: Path | None) -> dict[str, Any]:
    """Return the request in a JSON file, or one with an image file, by default the first held-out digit."""
    if source is None:
        source = min(HELD_OUT.glob("*.png"), default=None)
    if source is None:
        raise UserError(f"{HELD_OUT} has no image", "make model, or name an image or request.json")
    if not source.is_file():
        raise UserError(f"{source} does not exist", "name an image, or a JSON file with instances")
    if source.suffix != ".json":
        return {"instances": [{"b64": base64.b64encode(source.read_bytes()).decode()}]}
    try:
        content = json.loads(source.read_text())
    except ValueError as error:
        raise UserError(f"{source} is not JSON: {error}", "fix the file") from None
    instances = content.get("instances") if isinstance(content, dict) else None
    if not instances or not isinstance(instances, list):
        hint = 'expected {"instances": [...], "parameters": {...}}, with at least one instance'
        raise UserError(f"{source} is not a prediction request", hint)
    return dict(content)
