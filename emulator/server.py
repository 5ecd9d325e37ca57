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
from google.longrunning import operations_pb2
from werkzeug import Request, Response
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from emulator import (
    batch,
    builds,
    data_plane,
    deployments,
    endpoints,
    functions,
    machines,
    model_changes,
    models,
    monitoring,
    operations,
    pipelines,
    prediction,
    repositories,
    storage_proxy,
    transcoding,
)
from emulator.errors import ApiError
from emulator.faults import to_error
from emulator.resources import Method
from emulator.routes import find_route, is_beta, not_supported
from emulator.state import State, project_number

log = logging.getLogger("emulator")
FAULTS = "/emulator/faults"
OLD_FAULTS = "/rehearsal/faults"
"""The path in version 0.1; it is removed in the next release."""
# The responses of these methods of Service Usage and Cloud Logging are written here to save their clients.
LOG_ENTRIES = "/v2/entries:list"
LOCATIONS = re.compile(r"/v[12](?:beta\d)?/(projects/[^/]+)/locations")
"""The path at which several APIs list the same locations."""
SERVICE = re.compile(r"/v1/(projects/[^/]+/services/[a-z.]+)")
GCLOUD = "google-cloud-sdk"
"""Part of gcloud's User-Agent."""
METHOD_NOT_ALLOWED = 405


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


MODULES = (
    models,
    model_changes,
    endpoints,
    deployments,
    prediction,
    batch,
    builds,
    repositories,
    monitoring,
    functions,
    pipelines,
)
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
            response = _error_response(error, request)
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
        if request.path.startswith(builds.LOGS) and request.method == "GET":
            log_text = builds.read_log(self.state, request.path.removeprefix(builds.LOGS))
            return Response(log_text, mimetype="text/plain")
        if request.path.startswith(("/emulator/", OLD_FAULTS)):
            return self._handle_control(request, body)
        if request.path.startswith(storage_proxy.PATHS):
            return storage_proxy.forward(self.state.config.storage_url, request)
        if service := SERVICE.fullmatch(request.path):
            return _json_response({"name": service[1], "state": "ENABLED"})
        if request.path == LOG_ENTRIES:
            return _json_response(_list_log_entries(self.state, transcoding.parse_json(body)))
        machines.check_region(request.path)
        if request.method == "GET" and (found := LOCATIONS.fullmatch(request.path)):
            return _json_response(_list_locations(found[1]))
        if operations.PATH.fullmatch(request.path):
            self._raise_fault("GetOperation", request.path)
            return _json_response(operations.handle(self.state, request.path, request.args))
        if request.method == "POST" and (found := data_plane.INVOKE.fullmatch(request.path)):
            self._raise_fault("Invoke", found[1])
            return data_plane.invoke(self.state, found, request, dedicated=self.dedicated)
        route, variables = find_route(request.method, request.path)
        resource = next(iter(variables.values()), "")
        self._raise_fault(route.rpc, resource)
        if route.is_supported and route.rpc in data_plane.RPCS:
            name, dedicated = variables["endpoint"], self.dedicated
            return data_plane.handle(self.state, route.rpc, request, name, dedicated=dedicated)
        method = METHODS.get(route.rpc) if route.is_supported else None
        if method is None:
            raise not_supported(f"{route.rpc} of {route.service}")
        query = {name: request.args.getlist(name) for name in request.args}
        message = transcoding.parse_request(request.method, request.path, query, body)
        beta = is_beta(request.path)
        result = method(self.state, message)
        if beta and isinstance(result, operations_pb2.Operation):
            result = operations.use_beta(self.state, result.name)
        return _json_response(transcoding.to_json(result, beta=beta))

    def _raise_fault(self, rpc: str, resource: str) -> None:
        """Raise the error of the next fault for a method, if any; ConnectionAbortedError for `cut`."""
        fault = self.state.faults.take(rpc, "denied", "disabled", "refused", "cut")
        if fault and fault.kind == "cut":
            raise ConnectionAbortedError
        if fault:
            raise to_error(fault, resource)

    def _handle_control(self, request: Request, body: bytes) -> Response:
        """Answer a request for the emulator itself: inject or clear faults, upload a source."""
        if request.path == OLD_FAULTS:
            log.warning("%s is deprecated: use %s", OLD_FAULTS, FAULTS)
        if request.path in (FAULTS, OLD_FAULTS) and request.method == "POST":
            self.state.faults.add(transcoding.parse_json(body))
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
        raise not_supported("logs other than those of builds (resource.labels.build_id=…)")
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


def _list_locations(project: str) -> dict[str, Any]:
    locations = [
        {"name": f"{project}/locations/{name}", "locationId": name} for name in machines.regions()
    ]
    return {"locations": locations}


def _error_response(error: ApiError, request: Request) -> Response:
    """Return Google's error; an unsupported method is a 501, and a 405 for gcloud.

    gcloud repeats every request whose status is 500 or more for half a minute, and then reports problems with the
    network instead of the message.
    """
    content, status = error.to_json(), error.http_status
    if error.status == "UNIMPLEMENTED" and GCLOUD in request.headers.get("User-Agent", ""):
        status = content["error"]["code"] = METHOD_NOT_ALLOWED
    return _json_response(content, status)


def _json_response(content: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(content), status, mimetype="application/json")
