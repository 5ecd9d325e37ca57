"""What of Google and of a cluster answers where there is none: GKE's control plane, a registry, an API server.

It keeps what is applied and finds every Deployment as it is told; nothing is started. Objects are
held against Kubernetes' schemas elsewhere.
"""

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trustme
import yaml

KINDS = {
    "v1": {"Namespace": "namespaces", "Service": "services", "ServiceAccount": "serviceaccounts"},
    "apps/v1": {"Deployment": "deployments"},
    "autoscaling/v2": {"HorizontalPodAutoscaler": "horizontalpodautoscalers"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies"},
    "gateway.networking.k8s.io/v1": {"Gateway": "gateways", "HTTPRoute": "httproutes"},
    "networking.gke.io/v1": {
        "HealthCheckPolicy": "healthcheckpolicies",
        "GCPBackendPolicy": "gcpbackendpolicies",
    },
    "monitoring.googleapis.com/v1": {"PodMonitoring": "podmonitorings"},
    "custom.metrics.k8s.io/v1beta1": {},
}
READY = {"type": "Available", "status": "True"}
STUCK = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}


@dataclass
class World:
    """What there is, and what was asked."""

    served: dict[str, dict[str, str]] = field(default_factory=lambda: dict(KINDS))
    """group/version → kind → plural: what the cluster knows"""
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    """by its path"""
    digest: str = ""
    """of whatever tag the registry is asked for; empty: there is no image"""
    stuck: bool = False
    """whether pods never get ready"""
    tokens: set[str] = field(default_factory=set)
    """that the API server was shown"""
    clusters: tuple[str, ...] = ("/v1/projects/my-project/locations/us-central1/clusters/c1",)
    described: dict[str, Any] = field(default_factory=dict)
    """the cluster, as GKE's control plane describes it"""
    url: str = ""
    """of GKE's control plane and the registry"""

    def names(self) -> set[str]:
        """Return Kind/name of every object there is."""
        return {f"{each['kind']}/{each['metadata']['name']}" for each in self.objects.values()}


@contextmanager
def standing_in() -> Iterator[World]:
    """Start both servers on loopback, and end them."""
    world, authority = World(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    class Cluster(_Cluster):
        there = world

    cluster = ThreadingHTTPServer(("127.0.0.1", 0), Cluster)
    cluster.socket = context.wrap_socket(cluster.socket, server_side=True)

    certificate = base64.b64encode(authority.cert_pem.bytes()).decode()
    world.described = {
        "name": "c1",
        "status": "RUNNING",
        "location": "us-central1",
        "endpoint": f"127.0.0.1:{cluster.server_port}",
        "masterAuth": {"clusterCaCertificate": certificate},
    }

    class Google(_Google):
        there = world

    google = ThreadingHTTPServer(("127.0.0.1", 0), Google)
    world.url = f"http://127.0.0.1:{google.server_port}"
    for server in (cluster, google):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield world
    finally:
        for server in (cluster, google):
            server.shutdown()
            server.server_close()


def environment(world: World, folder: Path) -> dict[str, str]:
    """Return the variables with which gcloud and kubectl's plugin come here; `folder` keeps what they write."""
    token = folder / "token"
    token.write_text("a-token")
    return {
        "CLOUDSDK_CONFIG": str(folder / "gcloud"),
        "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(token),
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_CONTAINER": f"{world.url}/",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        "CLOUDSDK_CORE_DISABLE_FILE_LOGGING": "true",
        "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
    }


class _Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    there: World

    def answer(self, content: Any, code: int = 200, **headers: str) -> None:
        text = json.dumps(content).encode()
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class _Google(_Server):
    def do_GET(self) -> None:
        if urlsplit(self.path).path in self.there.clusters:
            self.answer(self.there.described)
        else:
            where = urlsplit(self.path).path.removeprefix("/v1/")
            error = {"code": 404, "message": f"Not found: {where}.", "status": "NOT_FOUND"}
            self.answer({"error": error}, 404)

    def do_HEAD(self) -> None:
        if self.there.digest:
            self.answer({}, Docker_Content_Digest=self.there.digest)
        else:
            self.answer({}, 404)


class _Cluster(_Server):
    def do_GET(self) -> None:
        self.there.tokens.add(self.headers.get("Authorization", ""))
        url = urlsplit(self.path)
        if (found := self._discovered(url.path)) is not None:
            self.answer(found)
        elif url.path in self.there.objects:
            self.answer(self.there.objects[url.path])
        elif url.path.endswith("/deployments"):
            self._deployments(url.path, parse_qs(url.query))
        else:
            self._refuse(404, f"{url.path} not found", "NotFound")

    def do_PATCH(self) -> None:
        """Apply: the object is what the client says it is."""
        path = urlsplit(self.path).path
        assert self.headers["Content-Type"] == "application/apply-patch+yaml"
        thing = yaml.safe_load(self.rfile.read(int(self.headers["Content-Length"])))
        space = path.partition("/namespaces/")[2].split("/")
        if len(space) > 1 and f"Namespace/{space[0]}" not in self.there.names():
            self._refuse(404, f'namespaces "{space[0]}" not found', "NotFound")
            return
        thing["metadata"] |= {"generation": 1, "uid": path, "resourceVersion": "1"}
        if thing["kind"] == "Deployment":
            count = 3
            thing["spec"]["replicas"] = count
            thing["status"] = {
                "observedGeneration": 1,
                "replicas": count,
                "updatedReplicas": count,
                "availableReplicas": 0 if self.there.stuck else count,
                "conditions": [STUCK if self.there.stuck else READY],
            }
        self.there.objects[path] = thing
        self.answer(thing, 201)

    def do_DELETE(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        if path in self.there.objects:
            gone = self.there.objects.pop(path)
            details = {"name": gone["metadata"]["name"], "uid": gone["metadata"]["uid"]}
            self.answer(
                {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": details}
            )
        else:
            self._refuse(404, f"{path} not found", "NotFound")

    def _deployments(self, path: str, query: dict[str, list[str]]) -> None:
        if "watch" in query:
            self._refuse(400, "nothing changes here", "BadRequest")
            return
        found = [thing for key, thing in self.there.objects.items() if key.startswith(path + "/")]
        listed = {
            "kind": "DeploymentList",
            "apiVersion": "apps/v1",
            "metadata": {"resourceVersion": "1"},
        }
        self.answer(listed | {"items": found})

    def _refuse(self, code: int, message: str, reason: str) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
        self.answer(status | {"message": message, "reason": reason}, code)

    def _discovered(self, path: str) -> dict[str, Any] | None:
        """Return what kubectl asks to learn which kinds there are; None for anything else."""
        served = self.there.served
        fixed: dict[str, dict[str, Any]] = {
            "/version": {"major": "1", "minor": "37", "gitVersion": "v1.37.0"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
        }
        if path in fixed:
            return fixed[path]
        if path == "/apis":
            groups = [
                {
                    "name": each.partition("/")[0],
                    "versions": [{"groupVersion": each, "version": each.partition("/")[2]}],
                    "preferredVersion": {"groupVersion": each, "version": each.partition("/")[2]},
                }
                for each in served
                if "/" in each
            ]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        if path == "/openapi/v3":
            where = {each: f"api{'s' if '/' in each else ''}/{each}" for each in served}
            return {
                "paths": {
                    each: {"serverRelativeURL": f"/openapi/v3/{each}?hash=1"}
                    for each in where.values()
                }
            }
        version = path.removeprefix("/openapi/v3").removeprefix("/apis/").removeprefix("/api/")
        if version not in served:
            return None
        if path.startswith("/openapi/v3/"):
            return _openapi(version, served[version])
        resources = [
            {
                "name": plural,
                "singularName": kind.lower(),
                "kind": kind,
                "namespaced": kind != "Namespace",
                "verbs": ["get", "list", "patch", "delete"],
            }
            for kind, plural in served[version].items()
        ]
        return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}


def _openapi(version: str, kinds: dict[str, str]) -> dict[str, Any]:
    """Say that the server checks fields itself: kubectl leaves it to it then."""
    group, _, short = version.rpartition("/")
    paths = {
        f"/{plural}/{{name}}": {
            "patch": {
                "parameters": [{"name": "fieldValidation", "in": "query"}],
                "responses": {},
                "x-kubernetes-group-version-kind": {"group": group, "version": short, "kind": kind},
            }
        }
        for kind, plural in kinds.items()
    }
    about = {"title": "stand-in", "version": "1"}
    return {"openapi": "3.0.0", "info": about, "paths": paths}
