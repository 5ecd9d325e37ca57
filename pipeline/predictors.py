"""Models that can be asked for labels: a folder's, an archive's, one behind a URL, one on Vertex AI."""

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
from deploy.errors import UserError
from deploy.gcp import Google

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S, RUN_S = 120, 900
"""For a request over the network; for all of them in a process here."""
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
"""A worker without TorchServe: code from one folder, weights from another, a request a line."""


class PredictionError(Exception):
    """Why a model cannot be compared with; for people."""


Request = list[str]
"""Base64 pictures that are sent together."""
Ask = Callable[[list[Request]], list[str]]
"""Requests in, the labels of all their pictures out; raises NoAnswer."""


def of_folder(weights: Path) -> Ask:
    """Return the model of a folder with weights, run by this repository's code."""
    return lambda asked: _run(ROOT, weights.resolve(), asked)


def of_archive(archive: Path) -> Ask:
    """Return the model of an archive of this project, run by the code that is in it; raise NoAnswer."""
    if not archive.is_file():
        raise PredictionError(f"{archive} does not exist: name an archive, a URL, or none")
    with zipfile.ZipFile(archive) as contents:
        if "handler/batch.py" not in contents.namelist():
            raise PredictionError(
                f"{archive} is not of this project: serve it, and name its URL instead"
            )

    def ask(asked: list[Request]) -> list[str]:
        with (
            tempfile.TemporaryDirectory(prefix="serving-") as unpacked,
            zipfile.ZipFile(archive) as contents,
        ):
            contents.extractall(unpacked)
            return _run(Path(unpacked), Path(unpacked), asked)

    return ask


def of_url(url: str) -> Ask:
    """Return the model that answers at a URL."""

    def one(pictures: Request) -> str:
        try:
            answer = requests.post(url, json=_request(pictures), timeout=TIMEOUT_S)
        except requests.RequestException as error:
            raise PredictionError(f"{url}: {error}") from None
        if not answer.ok:
            raise PredictionError(f"{url} answers {answer.status_code}: {answer.text[:300]}")
        return answer.text

    return lambda asked: _labels(url, asked, [one(pictures) for pictures in asked])


def of_endpoint(where: Mapping[str, Any]) -> Ask | None:
    """Return the model behind the endpoint of deploy.toml; None where nothing serves there yet.

    Where a canary runs, its answers are among them: an endpoint does not say who answers before it does.
    """
    try:
        google = Google(settings.read(where))
        if not serves(google):
            return None
    except UserError as stop:
        raise PredictionError(f"{stop.message}; {stop.hint}") from None

    def one(pictures: Request) -> str:
        try:
            return json.dumps(google.predict(_request(pictures)))
        except UserError as stop:
            raise PredictionError(f"{stop.message}; {stop.hint}") from None

    name = google.settings.endpoint
    return lambda asked: _labels(name, asked, [one(pictures) for pictures in asked])


def serves(google: Google) -> bool:
    """Say whether the endpoint answers anybody."""
    state = google.state()
    return state is not None and any(state.share(each.id) for each in state.deployed)


def _run(code: Path, weights: Path, asked: list[Request]) -> list[str]:
    # -I: nothing but that code and the installed packages.
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM, str(code), str(weights)],
        cwd=code,
        input="".join(f"{json.dumps(_request(pictures))}\n" for pictures in asked),
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    lines = done.stdout.splitlines()
    if done.returncode or len(lines) != len(asked):
        reason = (done.stderr.strip() or "no word on why").splitlines()[-1]
        raise PredictionError(f"{weights} does not answer: {reason}")
    return _labels(str(weights), asked, lines)


def _request(pictures: Request) -> dict[str, Any]:
    return {"instances": [{"b64": picture} for picture in pictures], "parameters": {"top_k": 1}}


def _labels(who: str, asked: list[Request], bodies: list[str]) -> list[str]:
    """Return the labels that are in the answers to these requests; raise NoAnswer."""
    labels = []
    for pictures, body in zip(asked, bodies, strict=True):
        try:
            found = [str(each["label"]) for each in json.loads(body)["predictions"]]
        except (ValueError, KeyError, TypeError):
            reason = f"{who}: expected predictions with a label each, got {body[:300]}"
            raise PredictionError(reason) from None
        if len(found) != len(pictures):
            raise PredictionError(f"{who}: {len(found)} predictions for {len(pictures)} instances")
        labels += found
    return labels
