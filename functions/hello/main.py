"""Answer with the request's `message`."""

import functions_framework
from flask import Request, Response

from functions.http import HTTPError, argument, shown, text


@functions_framework.http
def hello(request: Request) -> Response:
    """Return `message`, of the query or of a JSON body, or Hello World!; 400 with the reason."""
    try:
        return text(_message(request))
    except HTTPError as error:
        return text(str(error), error.status)


def _message(request: Request) -> str:
    message = argument(request, "message", "Hello World!")
    if not isinstance(message, str):
        raise HTTPError(f"message: expected a string; got {shown(message)}")
    return message
