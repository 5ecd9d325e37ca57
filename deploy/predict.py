"""Online predictions: the model's requests, or one of a file, sent to the endpoint."""

import base64
import itertools
import json
import time
from pathlib import Path
from typing import Any

from deploy.clients import CloudClients
from deploy.errors import UserError
from project.model_folder import Model
from project.requests import read_bodies, read_expected, replace_picture

MAX_CHARS = 500
"""Of a printed prediction."""


def predict(cloud: CloudClients, source: Path | None) -> None:
    """Send a request, and print the response as JSON."""
    if cloud.settings.is_private:
        hint = "send it from the endpoint's network: docs/cloud.md, private endpoints"
        raise UserError("a private endpoint cannot be reached from here", hint)
    request = build_request(cloud.settings.sources, source)
    if cloud.dry_run:
        count = len(request["instances"])
        cloud.report(f"would call PredictionService.Predict with {count} instances")
        return
    print(json.dumps(cloud.vertex.predict(request), indent=2))


def smoke_test(cloud: CloudClients, source: Path | None) -> None:
    """Send the model's requests or that of `source`; report the predictions and a gcloud command for the first."""
    s, model = cloud.settings, cloud.settings.sources
    if source is None and not model.requests.is_file():
        cloud.report(f"no request was sent: {model.archive} has no requests.json; use --request")
        return
    if s.is_private:
        cloud.report("no request was sent: a private endpoint is reachable only from its network")
        config = cloud.vertex.endpoint_config()
        if config and config.service_attachment:
            cloud.report(f"  connect a forwarding rule there to {config.service_attachment}")
        return
    requests = list_requests(model) if source is None else [build_request(model, source)]
    expected = read_expected(model) if source is None else []
    for request, value in itertools.zip_longest(requests, expected):
        started_s = time.monotonic()
        response = cloud.vertex.predict(request)
        ms = (time.monotonic() - started_s) * 1000
        text = json.dumps(response["predictions"])
        cloud.report(
            f"\n{text if len(text) <= MAX_CHARS else f'{text[:MAX_CHARS]}…'}\n"
            f"  from deployed model {response.get('deployedModelId')} in {ms:.0f} ms"
            f"{'' if value is None else f'; expected: {json.dumps(value)}'}"
        )
    file = model.request
    if source is not None:
        file = model.build / "sent-request.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(requests[0]))
    cloud.report(
        f"\nthe first request with gcloud:\n"
        f"  gcloud ai endpoints predict {s.name} --project={s.project} --region={s.region} --json-request={file}\n"
    )


def list_requests(model: Model) -> list[dict[str, Any]]:
    """Return the bodies of the requests in requests.json, with one instance each; raise UserError."""
    try:
        return read_bodies(model)
    except OSError as error:
        hint = "make archive writes it, if the model has requests"
        raise UserError(f"{model.requests} cannot be read: {error.strerror}", hint) from None


def build_request(model: Model, source: Path | None) -> dict[str, Any]:
    """Return the request in a JSON file, or the model's first request, with the image in a file if there is one."""
    if source is None:
        return list_requests(model)[0]
    if not source.is_file():
        raise UserError(f"{source} does not exist", "name an image, or a JSON file with instances")
    if source.suffix != ".json":
        request = list_requests(model)[0]
        if replace_picture(request["instances"], "") == request["instances"]:
            missing = f'{model.name} takes no image: its first request has no "b64"'
            raise UserError(missing, 'name a JSON file: {"instances": [...], "parameters": {...}}')
        image = base64.b64encode(source.read_bytes()).decode()
        return {**request, "instances": replace_picture(request["instances"], image)}
    try:
        content = json.loads(source.read_text())
    except OSError as error:
        raise UserError(f"{source} cannot be read: {error.strerror}", "name another file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is not JSON: {error}", "fix the file") from None
    instances = content.get("instances") if isinstance(content, dict) else None
    if not instances or not isinstance(instances, list):
        hint = 'expected {"instances": [...], "parameters": {...}}, with at least one instance'
        raise UserError(f"{source} is not a prediction request", hint)
    return dict(content)
