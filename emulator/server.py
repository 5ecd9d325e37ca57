"""The emulator's HTTP server: one server for all emulated APIs."""

import json
import logging
import re
import socket
import ssl
import threading
import traceback
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from google.api import httpbody_pb2  # noqa: F401  a field of rawPredict's request type
from google.cloud import resourcemanager_v3
from google.iam.v1 import iam_policy_pb2
from werkzeug import Request, Response
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from emulator import (
    batch,
    builds,
    endpoints,
    functions,
    models,
    monitoring,
    operations,
    pipelines,
    prediction,
    repositories,
    storage_proxy,
    transcoding,
)
from emulator.containers import ContainerRequest
from emulator.errors import ApiError, unimplemented
from emulator.faults import to_error
from emulator.resources import Method
from emulator.state import State, project_number

log = logging.getLogger("emulator")
FAULTS = "/emulator/faults"
OLD_FAULTS = "/rehearsal/faults"
"""The path in version 0.1; it is removed in the next release."""
# The responses of these methods of Service Usage and Cloud Logging are written here to save their clients.
LOG_ENTRIES = "/v2/entries:list"
SERVICE = re.compile(r"/v1/(projects/[^/]+/services/[a-z.]+)")
INVOKE = re.compile(
    r"/v1/(projects/[^/]+/locations/[^/]+/endpoints/[^/]+)(?:/deployedModels/([^/]+))?/invoke(/.+)"
)
"""The path by which a client reaches any route of a container; Google's clients have no method for it."""
FORWARDED_HEADERS = "Content-Type", "Accept"
RAW_PREDICT_HEADERS = "X-Vertex-AI-Endpoint-Id", "X-Vertex-AI-Deployed-Model-Id"


def check_permissions(
    state: State, request: iam_policy_pb2.TestIamPermissionsRequest
) -> iam_policy_pb2.TestIamPermissionsResponse:
    """Return the permissions that the caller has: all, except those that a fault denies."""
    pending = [fault for fault in state.faults.pending if fault.times]
    denied = {fault.detail for fault in pending if fault.kind == "denied"}
    granted = [permission for permission in request.permissions if permission not in denied]
    return iam_policy_pb2.TestIamPermissionsResponse(permissions=granted)


def get_project(
    _: State, request: resourcemanager_v3.GetProjectRequest
) -> resourcemanager_v3.Project:
    """Return a project; a project exists for every ID."""
    project_id = request.name.split("/")[1]
    name = f"projects/{project_number(project_id)}"
    return resourcemanager_v3.Project(name=name, project_id=project_id, state="ACTIVE")


MODULES = (models, endpoints, batch, builds, repositories, monitoring, functions, pipelines)
METHODS: dict[str, Method] = {
    "TestIamPermissions": check_permissions,
    "GetProject": get_project,
    **{rpc: method for module in MODULES for rpc, method in module.METHODS.items()},
}


class RequestHandler(WSGIRequestHandler):
    """Writes one log line per request."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:  # noqa: ARG002  werkzeug's names
        """Write the line: status, method and path."""
        log.info("%s %s %s", code, self.command, self.path.partition("?")[0])


class App:
    """WSGI application that answers every request with a method's response or Google's error."""

    def __init__(self, state: State, *, dedicated: bool = False) -> None:
        """Serve the shared domain, or the domain of dedicated endpoints."""
        self.state, self.dedicated = state, dedicated

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        request = Request(environ)
        try:
            response = self._handle(request)
        except ApiError as error:
            response = _json_response(error.to_json(), error.http_status)
        except ConnectionAbortedError:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            response = Response(status=500)
        except Exception as error:  # noqa: BLE001  the client gets a response, the log the traceback
            log.error("%s", traceback.format_exc())
            internal = ApiError("INTERNAL", f"the emulator failed: {error!r}")
            response = _json_response(internal.to_json(), 500)
        return response(environ, start_response)

    def _handle(self, request: Request) -> Response:  # noqa: PLR0911  one return for each API
        body = request.get_data()
        if request.path.startswith(("/emulator/", OLD_FAULTS)):
            return self._handle_control(request, body)
        if request.path.startswith(storage_proxy.PATHS):
            return storage_proxy.forward(self.state.config, request)
        if service := SERVICE.fullmatch(request.path):
            return _json_response({"name": service[1], "state": "ENABLED"})
        if request.path == LOG_ENTRIES:
            return _json_response(_list_log_entries(self.state, json.loads(body)))
        if operations.PATH.fullmatch(request.path):
            self._raise_fault("GetOperation", request.path)
            return _json_response(operations.handle(self.state, request.path))
        if request.method == "POST" and (found := INVOKE.fullmatch(request.path)):
            self._raise_fault("Invoke", found[1])
            headers = _select_headers(request)
            forwarded = ContainerRequest(body, headers, True, found[3], found[2] or "")
            return self._forward(found[1], forwarded)
        route, variables = transcoding.find_route(request.method, request.path)
        resource = next(iter(variables.values()), "")
        self._raise_fault(route.rpc, resource)
        if route.rpc in ("Predict", "RawPredict", "StreamRawPredict"):
            return self._predict(route.rpc, request, variables["endpoint"], body)
        method = METHODS.get(route.rpc)
        if method is None:
            raise unimplemented(
                f"the emulator does not support {route.rpc}; emulator/README.md lists what it supports"
            )
        query = {name: request.args.getlist(name) for name in request.args}
        message = transcoding.parse_request(request.method, request.path, query, body)
        return _json_response(transcoding.to_json(method(self.state, message)))

    def _raise_fault(self, rpc: str, resource: str) -> None:
        """Raise the error of the next fault for a method, if any; ConnectionAbortedError for `cut`."""
        fault = self.state.faults.take(rpc, "denied", "disabled", "refused", "cut")
        if fault and fault.kind == "cut":
            raise ConnectionAbortedError
        if fault:
            raise to_error(fault, resource)

    def _predict(self, rpc: str, request: Request, endpoint: str, body: bytes) -> Response:
        if rpc == "Predict":
            transcoding.parse_request(request.method, request.path, {}, body)
            content = prediction.predict(self.state, endpoint, body, dedicated=self.dedicated)
            return Response(content, mimetype="application/json")
        headers = _select_headers(request)
        return self._forward(
            endpoint, ContainerRequest(body, headers, is_streamed=rpc == "StreamRawPredict")
        )

    def _forward(self, endpoint: str, request: ContainerRequest) -> Response:
        """Return a container's response as it is, with Google's headers."""
        response, deployed = prediction.forward(
            self.state, endpoint, request, dedicated=self.dedicated
        )
        ids = (endpoint.rsplit("/", 1)[-1], deployed.id)
        return Response(
            prediction.read_stream(response) if request.is_streamed else response.content,
            response.status_code,
            dict(zip(RAW_PREDICT_HEADERS, ids, strict=True)),
            content_type=response.headers.get("Content-Type", ""),
        )

    def _handle_control(self, request: Request, body: bytes) -> Response:
        """Answer a request for the emulator itself: inject or clear faults, upload a source."""
        if request.path == OLD_FAULTS:
            log.warning("%s is deprecated: use %s", OLD_FAULTS, FAULTS)
        if request.path in (FAULTS, OLD_FAULTS) and request.method == "POST":
            self.state.faults.add(json.loads(body))
        elif request.path in (FAULTS, OLD_FAULTS) and request.method == "DELETE":
            self.state.faults.clear()
        elif request.path.startswith(functions.UPLOADS) and request.method == "PUT":
            self.state.uploads[request.path.removeprefix(functions.UPLOADS)] = body
        else:
            raise ApiError("NOT_FOUND", f"expected POST or DELETE {FAULTS}")
        return _json_response({})


def serve(
    state: State,
    host: str,
    port: int,
    *,
    dedicated: bool = False,
    ssl_context: ssl.SSLContext | None = None,
) -> BaseWSGIServer:
    """Start to serve in the background; return the server, which the caller shuts down."""
    app = App(state, dedicated=dedicated)
    server = make_server(
        host, port, app, threaded=True, request_handler=RequestHandler, ssl_context=ssl_context
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _list_log_entries(state: State, request: dict[str, Any]) -> dict[str, Any]:
    """Return the log of the build in a filter, the newest lines first if that is the order."""
    found = re.search(r'resource\.labels\.build_id="([^"]+)"', request.get("filter", ""))
    if found is None:
        raise unimplemented("the emulator has only logs of builds: resource.labels.build_id=…")
    entries = [
        {"logName": "cloudbuild", "insertId": f"{number:06}", "textPayload": line}
        for number, line in enumerate(state.build_logs.get(found[1], []))
    ]
    if request.get("orderBy", "").endswith("desc"):
        entries.reverse()
    first = int(request.get("pageToken") or 0)
    end = first + (request.get("pageSize") or len(entries))
    return {
        "entries": entries[first:end],
        "nextPageToken": str(end) if end < len(entries) else "",
    }


def _select_headers(request: Request) -> dict[str, str]:
    """Return the headers that a container gets of a client's."""
    return {name: request.headers[name] for name in FORWARDED_HEADERS if name in request.headers}


def _json_response(content: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(content), status, mimetype="application/json")
