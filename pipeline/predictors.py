"""Functions that predict with a model: in an archive, behind a URL, or on a Vertex AI endpoint; and its score.py."""

import json
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import requests

from deploy import settings
from deploy.clients import CloudClients
from deploy.errors import UserError
from pipeline.errors import EvaluationError

REQUEST_TIMEOUT_S = 120
PROCESS_TIMEOUT_S = 3600
"""For all requests to a model that runs in a process on this machine."""
START = """
import json, sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
out, sys.stdout = sys.stdout, sys.stderr
"""
"""The start of both programs: import from a folder, and keep stdout for the results."""
# TorchServe calls this interface, so it is the same in archives of every version.
PREDICT = """
from vertex_handler import VertexHandler
class Context:
    system_properties = {"model_dir": sys.argv[1]}
    def get_request_header(self, *_): pass
    def get_all_request_header(self, *_): return {}
    def set_response_status(self, *_): pass
    def set_response_content_type(self, *_): pass
    def set_response_header(self, *_): pass
context, handler = Context(), VertexHandler()
handler.initialize(context)
for line in sys.stdin:
    print(handler.handle([{"body": line.encode()}], context)[0], file=out, flush=True)
"""
"""A worker without TorchServe: a request per line of stdin."""
SCORE = """
from score import score
for line in sys.stdin:
    print(float(score(*json.loads(line))), file=out, flush=True)
"""
"""Run score.py: a prediction and the truth per line of stdin."""

Request = dict[str, Any]
"""A request's body: instances and parameters."""
Predict = Callable[[list[Request]], list[Any]]
"""Takes requests and returns the predictions for all their instances, in order; raises EvaluationError."""


def archive_predictor(archive: Path, python: Path) -> Predict:
    """Predict with an archive of this project, in a process of `python`, which has the model's packages.

    Raises EvaluationError if it does not exist or was not created by this project.
    """
    if not archive.is_file():
        raise EvaluationError(f"{archive} does not exist; pass an archive, a URL, or none")
    with zipfile.ZipFile(archive) as contents:
        if "handler/batch.py" not in contents.namelist():
            reason = "was not created by this project; serve it and pass its URL"
            raise EvaluationError(f"{archive} {reason}")

    def predict(bodies: list[Request]) -> list[Any]:
        with (
            tempfile.TemporaryDirectory(prefix="serving-") as unpacked,
            zipfile.ZipFile(archive) as contents,
        ):
            contents.extractall(unpacked)
            lines = [json.dumps(body) for body in bodies]
            responses = _run(python, PREDICT, Path(unpacked), lines, f"prediction with {archive}")
        return _parse_predictions(str(archive), bodies, responses)

    return predict


def url_predictor(url: str) -> Predict:
    """Predict by POST requests to a URL."""

    def send(body: Request) -> str:
        try:
            response = requests.post(url, json=body, timeout=REQUEST_TIMEOUT_S)
        except requests.RequestException as error:
            raise EvaluationError(f"{url}: {error}") from None
        if not response.ok:
            raise EvaluationError(
                f"{url} responded with status {response.status_code}: {response.text[:300]}"
            )
        return response.text

    return lambda bodies: _parse_predictions(url, bodies, [send(body) for body in bodies])


def endpoint_predictor(target: Mapping[str, Any]) -> Predict | None:
    """Predict with the model's endpoint; return None if no model receives traffic there.

    During a canary both versions respond: a request cannot choose one of them.
    """
    try:
        cloud = CloudClients.create(settings.load(target))
        if not has_traffic(cloud):
            return None
    except UserError as error:
        raise EvaluationError(f"{error.message}; {error.hint}") from None

    def send(body: Request) -> str:
        try:
            return json.dumps(cloud.vertex.predict(body))
        except UserError as error:
            raise EvaluationError(f"{error.message}; {error.hint}") from None

    name = cloud.settings.endpoint
    return lambda bodies: _parse_predictions(name, bodies, [send(body) for body in bodies])


def has_traffic(cloud: CloudClients) -> bool:
    """Return whether a model of the endpoint receives traffic."""
    state = cloud.vertex.endpoint_state()
    return state is not None and any(state.share(each.id) for each in state.deployed)


def score(program: Path, python: Path, predictions: list[Any], truths: list[Any]) -> list[float]:
    """Return the score of each prediction, 0 to 1: that of score.py, if the file exists; raise EvaluationError.

    Without it the score is 1 if the prediction or its label equals the truth, otherwise 0.
    """
    pairs = list(zip(predictions, truths, strict=True))
    if not program.is_file():
        return [float(truth in (predicted, get_label(predicted))) for predicted, truth in pairs]
    lines = _run(python, SCORE, program.parent, [json.dumps(each) for each in pairs], str(program))
    scores = [float(line) for line in lines]
    if outside := [each for each in scores if not 0 <= each <= 1]:
        raise EvaluationError(f"{program}: expected scores from 0 to 1; got {outside[0]}")
    return scores


def get_label(prediction: Any) -> Any:
    """Return the label in a prediction that is an object with one; otherwise the prediction."""
    return prediction.get("label", prediction) if isinstance(prediction, dict) else prediction


def _run(python: Path, program: str, folder: Path, lines: list[str], action: str) -> list[str]:
    """Run a program with the code in a folder, and return a line of output for each line of input."""
    try:
        # -I: import only this code and the installed packages.
        completed = subprocess.run(
            [str(python), "-I", "-c", START + program, str(folder.resolve())],
            cwd=folder,
            input="".join(f"{line}\n" for line in lines),
            capture_output=True,
            text=True,
            timeout=PROCESS_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EvaluationError(f"{action} timed out after {error.timeout:.0f} s") from None
    output = completed.stdout.splitlines()
    if completed.returncode or len(output) != len(lines):
        reason = (completed.stderr.strip() or "no error message").splitlines()[-1]
        raise EvaluationError(f"{action} failed: {reason}")
    return output


def _parse_predictions(source: str, bodies: list[Request], responses: list[str]) -> list[Any]:
    """Return the predictions in the responses; `source` names the model in errors."""
    predictions: list[Any] = []
    for body, response in zip(bodies, responses, strict=True):
        try:
            found = list(json.loads(response)["predictions"])
        except (ValueError, KeyError, TypeError):
            raise EvaluationError(f"{source}: expected predictions, got {response[:300]}") from None
        if len(found) != len(body["instances"]):
            counts = f"expected {len(body['instances'])} predictions, got {len(found)}"
            raise EvaluationError(f"{source}: {counts}")
        predictions += found
    return predictions
