"""gcloud's way to the storage emulator, which does not read the header that gcloud sends with an upload.

gcloud writes `boundary='…'`, in single quotes: Cloud Storage takes it, Python's e-mail parser, by which
the emulator reads uploads, does not. Nothing else is changed on the way.
"""

import re

from werkzeug import Request, Response

from emulator import processes
from emulator.config import EmulatorConfig

PATHS = ("/storage/", "/upload/storage/", "/download/storage/")
HOP_BY_HOP = {"connection", "transfer-encoding", "content-encoding", "content-length", "keep-alive"}


def relay(config: EmulatorConfig, request: Request) -> Response:
    """Pass a request on to the emulator, and its answer back."""
    path = request.full_path.rstrip("?")
    headers = {
        name: value for name, value in request.headers if name.lower() not in ("host", "connection")
    }
    if "Content-Type" in headers:
        headers["Content-Type"] = re.sub(
            "boundary='([^']*)'", r'boundary="\1"', headers["Content-Type"]
        )
    # One connection a request: the emulator hears one at a time.
    headers["Connection"] = "close"
    url, body = config.storage + path, request.get_data()
    reply = processes.send_request(request.method, url, 120, data=body, headers=headers)
    kept = [
        (name, value) for name, value in reply.headers.items() if name.lower() not in HOP_BY_HOP
    ]
    return Response(reply.content, reply.status_code, kept)
