"""Answer with the species of an iris, by a classifier that lies in a bucket."""

import json
from http import HTTPStatus

import functions_framework
from flask import Request, Response

from functions.http import HTTPError, argument, respond, text
from functions.knn import iris
from storage.lazy import LazyModel, ModelNotLoadedError

ABSENT = object()
MODEL = LazyModel(iris.load, [iris.FILE])


@functions_framework.http
def knn(request: Request) -> Response:
    """Return the class of `input_data`, of the query or of a JSON body.

    In JSON where the client asks for it, {"prediction": [1]}, or else in a sentence. What cannot
    be read is a 400 with the reason; without its model it answers 503, and says why.
    """
    try:
        value = argument(request, "input_data", ABSENT)
        if value is ABSENT:
            return _answer(request, "No input data received", {"message": "No input data received"})
        measured = iris.measurements(value)
        classes = MODEL.get().predict([measured]).tolist()
    except iris.InputError as error:
        return _failed(request, f"input_data: {error}", HTTPStatus.BAD_REQUEST)
    except HTTPError as error:
        return _failed(request, str(error), error.status)
    except ModelNotLoadedError as error:
        return _failed(
            request, f"the model cannot be loaded: {error}", HTTPStatus.SERVICE_UNAVAILABLE
        )
    return _answer(request, f"Belongs to class: {classes}", {"prediction": classes})


def _answer(
    request: Request, sentence: str, document: object, status: HTTPStatus = HTTPStatus.OK
) -> Response:
    if _wants_json(request):
        written = json.dumps(document, separators=(",", ":"))
        return respond(written, "application/json", status)
    return text(sentence, status)


def _wants_json(request: Request) -> bool:
    """Tell whether a client asks for JSON by name, and for plain text no more than for it."""
    # */* is every client's default, and a sentence is what this function has always said.
    wanted = request.accept_mimetypes
    json_, plain = wanted["application/json"], wanted["text/plain"]
    return json_ > plain or (json_ == plain and "application/json" in wanted.values())


def _failed(request: Request, reason: str, status: HTTPStatus) -> Response:
    return _answer(request, reason, {"error": {"code": int(status), "message": reason}}, status)
