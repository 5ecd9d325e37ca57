"""Functions that predict labels with a model: from a folder, an archive, a URL, or a Vertex AI endpoint."""

import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import requests

from deploy import settings
from deploy.clients import CloudClients
from deploy.errors import UserError
from pipeline.errors import PredictionError

ROOT = Path(__file__).resolve().parent.parent
REQUEST_TIMEOUT_S = 120
PROCESS_TIMEOUT_S = 900
"""For all requests to a model that runs in a process on this machine."""
PROGRAM = """
import sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
# At the root of an archive, in handler/ of the repository. TorchServe calls this interface, so it is the same
# in archives of every version.
sys.path.append(sys.argv[1] + "/handler")
from vertex_handler import VertexHandler
class Context:
    system_properties = {"model_dir": sys.argv[2]}
    def set_response_status(self, *_): pass
    def set_response_content_type(self, *_): pass
    def set_response_header(self, *_): pass
context, handler = Context(), VertexHandler()
handler.initialize(context)
for line in sys.stdin:
    print(handler.handle([{"body": line.encode()}], context)[0], flush=True)
"""
"""A worker without TorchServe: code from one folder, weights from another, a request per line of stdin."""


Request = list[str]
"""The pictures of one request, each in base64."""
Predict = Callable[[list[Request]], list[str]]
"""Takes requests and returns the labels of all their pictures, in order; raises PredictionError."""


def folder_predictor(weights: Path) -> Predict:
    """Predict with the weights in a folder and the code of this repository."""
    return lambda batches: _run(ROOT, weights.resolve(), batches)


def archive_predictor(archive: Path) -> Predict:
    """Predict with the weights and the code in an archive of this project.

    Raises PredictionError if it does not exist or was not created by this project.
    """
    if not archive.is_file():
        raise PredictionError(f"{archive} does not exist; pass an archive, a URL, or none")
    with zipfile.ZipFile(archive) as contents:
        if "handler/batch.py" not in contents.namelist():
            reason = "was not created by this project; serve it and pass its URL"
            raise PredictionError(f"{archive} {reason}")

    def predict(batches: list[Request]) -> list[str]:
        with (
            tempfile.TemporaryDirectory(prefix="serving-") as unpacked,
            zipfile.ZipFile(archive) as contents,
        ):
            contents.extractall(unpacked)
            return _run(Path(unpacked), Path(unpacked), batches)

    return predict


def url_predictor(url: str) -> Predict:
    """Predict by POST requests to a URL."""

    def send(pictures: Request) -> str:
        try:
            response = requests.post(url, json=_build_body(pictures), timeout=REQUEST_TIMEOUT_S)
        except requests.RequestException as error:
            raise PredictionError(f"{url}: {error}") from None
        if not response.ok:
            raise PredictionError(
                f"{url} responded with status {response.status_code}: {response.text[:300]}"
            )
        return response.text

    return lambda batches: _parse_labels(url, batches, [send(pictures) for pictures in batches])


def endpoint_predictor(target: Mapping[str, Any]) -> Predict | None:
    """Predict with the endpoint of deploy.toml; return None if no model receives traffic there.

    During a canary both versions respond: a request cannot choose one of them.
    """
    try:
        cloud = CloudClients.create(settings.load(target))
        if not has_traffic(cloud):
            return None
    except UserError as error:
        raise PredictionError(f"{error.message}; {error.hint}") from None

    def send(pictures: Request) -> str:
        try:
            return json.dumps(cloud.vertex.predict(_build_body(pictures)))
        except UserError as error:
            raise PredictionError(f"{error.message}; {error.hint}") from None

    name = cloud.settings.endpoint
    return lambda batches: _parse_labels(name, batches, [send(pictures) for pictures in batches])


def has_traffic(cloud: CloudClients) -> bool:
    """Return whether a model of the endpoint receives traffic."""
    state = cloud.vertex.endpoint_state()
    return state is not None and any(state.share(each.id) for each in state.deployed)


def _run(code: Path, weights: Path, batches: list[Request]) -> list[str]:
    # -I: import only this code and the installed packages.
    completed = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM, str(code), str(weights)],
        cwd=code,
        input="".join(f"{json.dumps(_build_body(pictures))}\n" for pictures in batches),
        capture_output=True,
        text=True,
        timeout=PROCESS_TIMEOUT_S,
        check=False,
    )
    responses = completed.stdout.splitlines()
    if completed.returncode or len(responses) != len(batches):
        reason = (completed.stderr.strip() or "no error message").splitlines()[-1]
        raise PredictionError(f"prediction with {weights} failed: {reason}")
    return _parse_labels(str(weights), batches, responses)


def _build_body(pictures: Request) -> dict[str, Any]:
    return {"instances": [{"b64": picture} for picture in pictures], "parameters": {"top_k": 1}}


def _parse_labels(source: str, batches: list[Request], bodies: list[str]) -> list[str]:
    """Return the labels in the response bodies; `source` names the model in errors."""
    labels = []
    for pictures, body in zip(batches, bodies, strict=True):
        try:
            predicted = [str(each["label"]) for each in json.loads(body)["predictions"]]
        except (ValueError, KeyError, TypeError):
            reason = f"{source}: expected predictions with a label each, got {body[:300]}"
            raise PredictionError(reason) from None
        if len(predicted) != len(pictures):
            counts = f"expected {len(pictures)} predictions, got {len(predicted)}"
            raise PredictionError(f"{source}: {counts}")
        labels += predicted
    return labels
