"""The stand-in over HTTP: one server for every API that is rehearsed."""

import json
import logging
import re
import socket
import threading
import traceback
from typing import Any

from google.api import httpbody_pb2  # noqa: F401  rawPredict's type holds one
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
from emulator.errors import ApiError, unimplemented
from emulator.faults import to_error
from emulator.state import State, project_number

log = logging.getLogger("rehearsal")
# Service Usage: a client's library is not worth this one question.
SERVICE = re.compile(r"/v1/(projects/[^/]+/services/[a-z.]+)")
RAW = "X-Vertex-AI-Endpoint-Id", "X-Vertex-AI-Deployed-Model-Id"


def permissions(
    state: State, request: iam_policy_pb2.TestIamPermissionsRequest
) -> iam_policy_pb2.TestIamPermissionsResponse:
    """Return the permissions that the caller has: all, but for those that a fault denies."""
    refused = {
        fault.detail for fault in state.faults.pending if fault.kind == "denied" and fault.times
    }
    granted = [each for each in request.permissions if each not in refused]
    return iam_policy_pb2.TestIamPermissionsResponse(permissions=granted)


def project(_: State, request: resourcemanager_v3.GetProjectRequest) -> resourcemanager_v3.Project:
    """Return a project; every ID is one."""
    identity = request.name.split("/")[1]
    return resourcemanager_v3.Project(
        name=f"projects/{project_number(identity)}", project_id=identity, state="ACTIVE"
    )


MODULES = (models, endpoints, batch, builds, repositories, monitoring, functions, pipelines)
METHODS: dict[str, Any] = {
    "TestIamPermissions": permissions,
    "GetProject": project,
    **{name: method for module in MODULES for name, method in module.METHODS.items()},
}


class Quiet(WSGIRequestHandler):
    """Logs through logging, one line a request."""

    def log_request(self, code: Any = "-", size: Any = "-") -> None:  # noqa: ARG002  werkzeug's names
        """Write one line."""
        log.info("%s %s %s", code, self.command, self.path.partition("?")[0])


class App:
    """Answers every request: by a method's answer, or by Google's error."""

    def __init__(self, state: State, *, dedicated: bool = False) -> None:
        """Serve the shared domain, or the one of dedicated endpoints."""
        self.state, self.dedicated = state, dedicated

    def __call__(self, environ: dict[str, Any], start: Any) -> Any:
        """Answer one request, as WSGI has it."""
        request = Request(environ)
        try:
            response = self._answer(request)
        except ApiError as error:
            response = _written(error.body(), error.http)
        except ConnectionAbortedError:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            response = Response(status=500)
        except Exception as error:  # noqa: BLE001  a client must get an answer, and this log the reason
            log.error("%s", traceback.format_exc())
            response = _written(ApiError("INTERNAL", f"the stand-in failed: {error!r}").body(), 500)
        return response(environ, start)

    def _answer(self, request: Request) -> Response:
        body = request.get_data()
        if request.path.startswith("/rehearsal/"):
            return self._control(request, body)
        if request.path.startswith(storage_proxy.PATHS):
            return storage_proxy.relay(self.state.config, request)
        if service := SERVICE.fullmatch(request.path):
            return _written({"name": service[1], "state": "ENABLED"})
        if operations.PATH.fullmatch(request.path):
            self._strike("GetOperation", request.path)
            return _written(operations.answer(self.state, request.path))
        route, variables = transcoding.find(request.method, request.path)
        resource = next(iter(variables.values()), "")
        self._strike(route.rpc, resource)
        if route.rpc in ("Predict", "RawPredict", "StreamRawPredict"):
            return self._predict(route.rpc, request, variables["endpoint"], body)
        method = METHODS.get(route.rpc)
        if method is None:
            raise unimplemented(
                f"the rehearsal does not do {route.rpc}; its README says what it does"
            )
        query = {name: request.args.getlist(name) for name in request.args}
        _, call = transcoding.parse(request.method, request.path, query, body)
        return _written(transcoding.as_json(method(self.state, call)))

    def _strike(self, rpc: str, resource: str) -> None:
        fault = self.state.faults.take(rpc, "denied", "disabled", "refused", "cut")
        if fault and fault.kind == "cut":
            raise ConnectionAbortedError
        if fault:
            raise to_error(fault, resource)

    def _predict(self, rpc: str, request: Request, endpoint: str, body: bytes) -> Response:
        if rpc == "Predict":
            transcoding.parse(request.method, request.path, {}, body)
            answer = prediction.predict(self.state, endpoint, body, dedicated=self.dedicated)
            return Response(answer, mimetype="application/json")
        kind = request.headers.get("Content-Type", "application/octet-stream")
        reply, by = prediction.forward(self.state, endpoint, body, kind, dedicated=self.dedicated)
        headers = dict(zip(RAW, (endpoint.rsplit("/", 1)[-1], by.id), strict=True))
        kind = reply.headers.get("Content-Type", "")
        return Response(reply.content, reply.status_code, headers, content_type=kind)

    def _control(self, request: Request, body: bytes) -> Response:
        """Answer what only a rehearsal has: faults ordered and taken back."""
        if request.path == "/rehearsal/faults" and request.method == "POST":
            self.state.faults.add(json.loads(body))
        elif request.path == "/rehearsal/faults" and request.method == "DELETE":
            self.state.faults.clear()
        elif request.path.startswith(functions.UPLOADS) and request.method == "PUT":
            self.state.uploads[request.path.removeprefix(functions.UPLOADS)] = body
        else:
            raise ApiError("NOT_FOUND", "POST or DELETE /rehearsal/faults")
        return _written({})


def serve(
    state: State, host: str, port: int, *, dedicated: bool = False, context: Any = None
) -> BaseWSGIServer:
    """Begin to answer in the background; return the server, to be shut down."""
    app = App(state, dedicated=dedicated)
    server = make_server(host, port, app, threaded=True, request_handler=Quiet, ssl_context=context)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _written(content: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(content), status, mimetype="application/json")
