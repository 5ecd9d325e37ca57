"""Proxy between gcloud and the storage emulator, which cannot parse a header of gcloud's uploads.

gcloud sends `boundary='…'` in single quotes. Cloud Storage accepts it; Python's e-mail parser, with which
the storage emulator reads uploads, does not. Nothing else is changed.
"""

import re

from werkzeug import Request, Response

from emulator import processes
from emulator.config import EmulatorConfig

PATHS = ("/storage/", "/upload/storage/", "/download/storage/")
HOP_BY_HOP = {"connection", "transfer-encoding", "content-encoding", "content-length", "keep-alive"}
TIMEOUT_S = 120


def forward(config: EmulatorConfig, request: Request) -> Response:
    """Send a request to the storage emulator and return its response."""
    path = request.full_path.rstrip("?")
    dropped = ("host", "connection")
    headers = {name: value for name, value in request.headers if name.lower() not in dropped}
    if content_type := headers.get("Content-Type"):
        headers["Content-Type"] = re.sub("boundary='([^']*)'", r'boundary="\1"', content_type)
    # One connection per request: the storage emulator handles one at a time.
    headers["Connection"] = "close"
    url, body = config.storage_url + path, request.get_data()
    response = processes.send_request(request.method, url, TIMEOUT_S, data=body, headers=headers)
    headers_out = response.headers.items()
    end_to_end = [(name, value) for name, value in headers_out if name.lower() not in HOP_BY_HOP]
    return Response(response.content, response.status_code, end_to_end)
