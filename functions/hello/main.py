"""Return the request's `message`."""

import functions_framework
from flask import Request, Response

from functions.http import HTTPError, get_argument, plain_text, truncate_json


@functions_framework.http
def hello(request: Request) -> Response:
    """Return `message` of the query or of a JSON body, by default Hello World!; 400 with the reason."""
    try:
        return plain_text(_get_message(request))
    except HTTPError as error:
        return plain_text(str(error), error.status)


def _get_message(request: Request) -> str:
    message = get_argument(request, "message", "Hello World!")
    if not isinstance(message, str):
        raise HTTPError(f"message: expected a string; got {truncate_json(message)}")
    return message
