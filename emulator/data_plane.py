"""The methods that clients call for predictions: predict, rawPredict, streamRawPredict and invoke."""

import re
from collections.abc import Mapping

from werkzeug import Request, Response

from emulator import prediction, transcoding
from emulator.containers import ContainerRequest
from emulator.state import State

RPCS = ("Predict", "RawPredict", "StreamRawPredict")
INVOKE = re.compile(
    r"/v1(?:beta1)?/(projects/[^/]+/locations/[^/]+/endpoints/[^/]+)(?:/deployedModels/([^/]+))?/invoke(/.+)"
)
"""The path by which a client reaches any route of a container; Google's clients have no method for it."""
RAW_PREDICT_HEADERS = "X-Vertex-AI-Endpoint-Id", "X-Vertex-AI-Deployed-Model-Id"
# Headers about one connection, or its encoding, end at the emulator; so do the credentials and Google's own headers.
NOT_FORWARDED = re.compile(
    "connection|keep-alive|proxy-.*|te|trailers?|transfer-encoding|upgrade|host|content-length|content-encoding"
    "|accept-encoding|date|server|authorization|x-goog-.*",
    re.IGNORECASE,
)


def handle(state: State, rpc: str, request: Request, endpoint: str, *, dedicated: bool) -> Response:
    """Answer a request to one of RPCS."""
    body = request.get_data()
    if rpc == "Predict":
        transcoding.parse_request(request.method, request.path, {}, body)
        content = prediction.predict(state, endpoint, body, dedicated=dedicated)
        return Response(content, mimetype="application/json")
    # Only dedicated domains stream: at the shared one the whole response is sent at its end.
    is_streamed = dedicated and rpc == "StreamRawPredict"
    forwarded = ContainerRequest(body, select_headers(dict(request.headers)), is_streamed)
    return _forward(state, endpoint, forwarded, dedicated=dedicated)


def invoke(state: State, found: re.Match[str], request: Request, *, dedicated: bool) -> Response:
    """Answer a request whose path matches INVOKE."""
    headers, path = select_headers(dict(request.headers)), found[3]
    forwarded = ContainerRequest(request.get_data(), headers, True, path, found[2] or "")
    return _forward(state, found[1], forwarded, dedicated=dedicated)


def select_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that pass between a client and a container, in either direction."""
    return {name: value for name, value in headers.items() if not NOT_FORWARDED.fullmatch(name)}


def _forward(
    state: State, endpoint: str, request: ContainerRequest, *, dedicated: bool
) -> Response:
    """Return a container's response as it is, with Google's headers."""
    response, deployed = prediction.forward(state, endpoint, request, dedicated=dedicated)
    ids = (endpoint.rsplit("/", 1)[-1], deployed.id)
    headers = select_headers(response.headers) | dict(zip(RAW_PREDICT_HEADERS, ids, strict=True))
    content_type = headers.pop("Content-Type", "")
    content = prediction.read_stream(response) if request.is_streamed else response.content
    return Response(content, response.status_code, headers, content_type=content_type)
