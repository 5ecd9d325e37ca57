"""A proxy in front of the storage emulator: what gcloud and Cloud Storage have and the storage emulator lacks.

- gcloud sends `boundary='…'` in single quotes; Cloud Storage accepts it, Python's e-mail parser does not.
- gcloud starts resumable uploads at a path of their own, and asks for the layout of a bucket.
- A path keeps its encoding: %2F at the end of an object's name is part of the name.
- A bucket's name is checked, and it gets the location and the other properties in the request that creates it.
"""

import json
import re
import threading

from werkzeug import Request, Response
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.wsgi import responder

from emulator import processes

PATHS = (
    "/storage/",
    "/batch/storage/",
    "/upload/storage/",
    "/download/storage/",
    "/resumable/upload/storage/",
)
"""The paths of Cloud Storage at the address of the other APIs."""
HOP_BY_HOP = {"connection", "transfer-encoding", "content-encoding", "content-length", "keep-alive"}
BUCKETS = "/storage/v1/b"
BUCKET = re.compile(r"/storage/v1/b/[^/]+")
LAYOUT = re.compile(r"/storage/v1/b/([^/]+)/storageLayout")
MANAGED_FOLDERS = re.compile(r"/storage/v1/b/[^/]+/managedFolders")
"""gcloud lists them before it deletes a bucket; the storage emulator has none."""
BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
RESERVED = re.compile(r"goog|.*google|(\d+\.){3}\d+$")
DROPPED = "connection", "transfer-encoding"
MULTI_REGIONS = ("US", "EU", "ASIA")
TIMEOUT_S = 120


class QuietHandler(WSGIRequestHandler):
    """Writes no log line per request."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Write nothing."""


def serve(host: str, port: int, backend_url: str) -> BaseWSGIServer:
    """Start the proxy in the background; return the server, which the caller shuts down."""
    app = responder(lambda environ, _: forward(backend_url, Request(environ)))
    server = make_server(host, port, app, threaded=True, request_handler=QuietHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def forward(backend_url: str, request: Request) -> Response:
    """Answer a request, with the storage emulator's response unless it lacks the method."""
    if found := LAYOUT.fullmatch(request.path):
        return _layout(backend_url, found[1])
    if request.method == "GET" and MANAGED_FOLDERS.fullmatch(request.path):
        return Response('{"kind": "storage#managedFolders"}', mimetype="application/json")
    if request.method == "POST" and request.path == BUCKETS:
        return _create_bucket(backend_url, request)
    path = request.environ.get("RAW_URI", request.full_path.rstrip("?"))
    path = re.sub("^https?://[^/]+", "", path).replace("/resumable/upload/", "/upload/", 1)
    body = request.get_data()
    headers = {n: value for n, value in request.headers if n.lower() not in DROPPED}
    if content_type := headers.get("Content-Type"):
        headers["Content-Type"] = re.sub("boundary='([^']*)'", r'boundary="\1"', content_type)
    response = _send(backend_url, request.method, path, body, headers)
    if response.status_code == 501:
        return _error(404, f"{request.method} {request.path}: not found")
    if (
        response.status_code == 200
        and BUCKET.fullmatch(request.path)
        and request.method != "DELETE"
    ):
        return _with_location_type(response)
    return response


def _send(
    backend_url: str, verb: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> Response:
    # One connection per request: the storage emulator handles one at a time.
    headers = {**(headers or {}), "Connection": "close"}
    response = processes.send_request(
        verb, backend_url + path, TIMEOUT_S, data=body, headers=headers
    )
    items = response.headers.items()
    end_to_end = [(name, value) for name, value in items if name.lower() not in HOP_BY_HOP]
    return Response(response.content, response.status_code, end_to_end)


def _create_bucket(backend_url: str, request: Request) -> Response:
    """Create a bucket with the properties of the request, which the storage emulator takes only in a change."""
    bucket = json.loads(request.get_data() or b"{}")
    name = bucket.get("name", "")
    if not BUCKET_NAME.fullmatch(name) or RESERVED.match(name) or ".." in name:
        return _error(400, f"Invalid bucket name: '{name}'")
    headers = {"Content-Type": "application/json"}
    content = json.dumps({"name": name}).encode()
    response = _send(backend_url, "POST", f"{BUCKETS}", content, headers)
    if response.status_code != 200:
        return response
    location = str(bucket.get("location") or "US").upper()
    content = json.dumps({**bucket, "location": location}).encode()
    return _with_location_type(_send(backend_url, "PATCH", f"{BUCKETS}/{name}", content, headers))


def _with_location_type(response: Response) -> Response:
    bucket = json.loads(response.get_data())
    kind = "multi-region" if bucket["location"] in MULTI_REGIONS else "region"
    content = json.dumps(bucket | {"locationType": kind})
    return Response(content, response.status_code, mimetype="application/json")


def _layout(backend_url: str, name: str) -> Response:
    bucket = _send(backend_url, "GET", f"{BUCKETS}/{name}")
    if bucket.status_code != 200:
        return _error(404, "The specified bucket does not exist.")
    properties = json.loads(_with_location_type(bucket).get_data())
    content = {
        "kind": "storage#storageLayout",
        "bucket": name,
        "location": properties["location"],
        "locationType": properties["locationType"],
        "hierarchicalNamespace": {"enabled": False},
    }
    return Response(json.dumps(content), mimetype="application/json")


def _error(code: int, message: str) -> Response:
    reason = "invalid" if code == 400 else "notFound"
    details = [{"domain": "global", "reason": reason, "message": message}]
    content = {"error": {"code": code, "message": message, "errors": details}}
    return Response(json.dumps(content), code, mimetype="application/json")
