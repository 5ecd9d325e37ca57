"""Return the species of an iris, by a classifier that is fetched from a bucket."""

import json
from http import HTTPStatus

import functions_framework
from flask import Request, Response

from functions.http import HTTPError, build_response, get_argument, plain_text
from functions.knn import iris
from storage.lazy import LazyModel, ModelNotLoadedError

NO_INPUT = object()
MODEL = LazyModel(iris.load, [iris.FILE])


@functions_framework.http
def knn(request: Request) -> Response:
    """Return the class of `input_data`, which is in the query or in a JSON body.

    The response is a sentence, or {"prediction": [1]} if the client accepts JSON. The status is 400 for
    invalid input and 503 if the model cannot be loaded, each with the reason.
    """
    try:
        value = get_argument(request, "input_data", NO_INPUT)
        if value is NO_INPUT:
            message = "No input data received"
            return _respond(request, message, {"message": message})
        measurements = iris.parse_measurements(value)
        classes = MODEL.get().predict([measurements]).tolist()
        return _respond(request, f"Belongs to class: {classes}", {"prediction": classes})
    except iris.InputError as error:
        return _respond_error(request, f"input_data: {error}", HTTPStatus.BAD_REQUEST)
    except HTTPError as error:
        return _respond_error(request, str(error), error.status)
    except ModelNotLoadedError as error:
        reason = f"the model cannot be loaded: {error}"
        return _respond_error(request, reason, HTTPStatus.SERVICE_UNAVAILABLE)


def _respond(
    request: Request, sentence: str, document: object, status: HTTPStatus = HTTPStatus.OK
) -> Response:
    if _prefers_json(request):
        body = json.dumps(document, separators=(",", ":"))
        return build_response(body, "application/json", status)
    return plain_text(sentence, status)


def _respond_error(request: Request, reason: str, status: HTTPStatus) -> Response:
    document = {"error": {"code": int(status), "message": reason}}
    return _respond(request, reason, document, status)


def _prefers_json(request: Request) -> bool:
    """Return whether the client accepts JSON by name, and plain text no more than JSON."""
    # Clients send */* by default; they get the sentence, which is this function's published response.
    accepted = request.accept_mimetypes
    json_, plain = accepted["application/json"], accepted["text/plain"]
    return json_ > plain or (json_ == plain and "application/json" in accepted.values())
