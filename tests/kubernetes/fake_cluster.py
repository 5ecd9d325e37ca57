"""A fake GKE: the control plane, a registry and an API server, as far as gcloud and kubectl need them here.

It stores the applied objects and reports every Deployment as ready or stuck; nomanifest is started. Other tests
validate the objects against Kubernetes' schemas.
"""

import base64
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme
import yaml
from flask import Flask, request

from tests.http import serve_app
from tests.kubernetes.conftest import BIN

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
    "external.metrics.k8s.io/v1beta1": {},
}
READY = {"type": "Available", "status": "True"}
STUCK = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
Response = tuple[dict[str, Any], int]


@dataclass
class FakeCluster:
    """The state of the fake: its APIs, objects and faults, and the requests' tokens."""

    served: dict[str, dict[str, str]] = field(default_factory=lambda: dict(KINDS))
    """The APIs of the cluster: group/version → kind → plural."""
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Path → object."""
    digest: str = ""
    """The digest of every tag in the registry; empty: the registry has no image."""
    stuck: bool = False
    """Whether the pods never become ready."""
    tokens: set[str] = field(default_factory=set)
    """The Authorization headers that the API server received."""
    clusters: tuple[str, ...] = ("v1/projects/my-project/locations/us-central1/clusters/c1",)
    described: dict[str, Any] = field(default_factory=dict)
    """The response of GKE's control plane for the cluster."""
    url: str = ""
    """The URL of GKE's control plane and the registry."""

    def names(self) -> set[str]:
        """Return Kind/name of every object."""
        return {f"{each['kind']}/{each['metadata']['name']}" for each in self.objects.values()}


@contextmanager
def running() -> Iterator[FakeCluster]:
    """Start both servers on loopback, and stop them at the end."""
    cluster, authority = FakeCluster(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    certificate = base64.b64encode(authority.cert_pem.bytes()).decode()
    with serve_app(_api_server(cluster), context=context) as address:
        cluster.described = {
            "name": "c1",
            "status": "RUNNING",
            "location": "us-central1",
            "endpoint": address,
            "masterAuth": {"clusterCaCertificate": certificate},
        }
        with serve_app(_control_plane(cluster)) as google:
            cluster.url = f"http://{google}"
            yield cluster


def environment(cluster: FakeCluster, folder: Path) -> dict[str, str]:
    """Return variables that direct gcloud and kubectl's plugin to the fake; they write to `folder`."""
    token = folder / "token"
    token.write_text("a-token")
    return {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "CLOUDSDK_CONFIG": str(folder / "gcloud"),
        "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(token),
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_CONTAINER": f"{cluster.url}/",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        "CLOUDSDK_CORE_DISABLE_FILE_LOGGING": "true",
        "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
    }


def _control_plane(cluster: FakeCluster) -> Flask:
    app = Flask(__name__)

    @app.get("/v2/<path:_>")
    def digest(_: str) -> tuple[dict[str, Any], int, dict[str, str]]:
        return {}, 200 if cluster.digest else 404, {"Docker-Content-Digest": cluster.digest}

    @app.get("/<path:path>")
    def describe(path: str) -> Response:
        if path in cluster.clusters:
            return cluster.described, 200
        error = {"code": 404, "message": f"Not found: {path}.", "status": "NOT_FOUND"}
        return {"error": error}, 404

    return app


def _api_server(cluster: FakeCluster) -> Flask:
    app = Flask(__name__)

    @app.before_request
    def record_token() -> None:
        cluster.tokens.add(request.headers.get("Authorization", ""))

    @app.get("/api")
    def core() -> Response:
        return {"kind": "APIVersions", "versions": ["v1"]}, 200

    @app.get("/apis")
    def groups() -> Response:
        listed = []
        for each in filter(lambda each: "/" in each, cluster.served):
            group, _, version = each.partition("/")
            preferred = {"groupVersion": each, "version": version}
            listed.append({"name": group, "versions": [preferred], "preferredVersion": preferred})
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}, 200

    @app.get("/openapi/v3")
    def schemas() -> Response:
        roots = [f"api{'s' if '/' in each else ''}/{each}" for each in cluster.served]
        paths = {each: {"serverRelativeURL": f"/openapi/v3/{each}?hash=1"} for each in roots}
        return {"paths": paths}, 200

    @app.get("/openapi/v3/api/<path:version>")
    @app.get("/openapi/v3/apis/<path:version>")
    def schema(version: str) -> Response:
        return _openapi(version, cluster.served[version]), 200

    @app.get("/api/<version>")
    @app.get("/apis/<group>/<version>")
    def resources(version: str, group: str = "") -> Response:
        named = f"{group}/{version}" if group else version
        if named not in cluster.served:
            return _error(404, f"{named} not found", "NotFound")
        listed = [
            {
                "name": plural,
                "singularName": kind.lower(),
                "kind": kind,
                "namespaced": kind != "Namespace",
                "verbs": ["get", "list", "patch", "delete"],
            }
            for kind, plural in cluster.served[named].items()
        ]
        return {"kind": "APIResourceList", "groupVersion": named, "resources": listed}, 200

    @app.get("/apis/apps/v1/namespaces/<_>/deployments")
    def deployments(_: str) -> Response:
        items = [each for key, each in cluster.objects.items() if key.startswith(request.path)]
        listed = {"kind": "DeploymentList", "apiVersion": "apps/v1", "items": items}
        return listed | {"metadata": {"resourceVersion": "1"}}, 200

    @app.get("/<path:_>")
    def get(_: str) -> Response:
        if request.path in cluster.objects:
            return cluster.objects[request.path], 200
        return _error(404, f"{request.path} not found", "NotFound")

    @app.patch("/<path:path>")
    def apply(path: str) -> Response:
        """Store the object as the client sent it."""
        assert request.content_type == "application/apply-patch+yaml"
        namespace, has_namespace, _ = path.partition("/namespaces/")[2].partition("/")
        if has_namespace and f"Namespace/{namespace}" not in cluster.names():
            return _error(404, f'namespaces "{namespace}" not found', "NotFound")
        manifest = yaml.safe_load(request.data)
        manifest["metadata"] |= {"generation": 1, "uid": path, "resourceVersion": "1"}
        if manifest["kind"] == "Deployment":
            manifest["spec"]["replicas"] = 3
            manifest["status"] = {
                "observedGeneration": 1,
                "replicas": 3,
                "updatedReplicas": 3,
                "availableReplicas": 0 if cluster.stuck else 3,
                "conditions": [STUCK if cluster.stuck else READY],
            }
        cluster.objects[request.path] = manifest
        return manifest, 201

    @app.delete("/<path:_>")
    def delete(_: str) -> Response:
        metadata = cluster.objects.pop(request.path)["metadata"]
        details = {"name": metadata["name"], "uid": metadata["uid"]}
        status = {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": details}
        return status, 200

    return app


def _error(code: int, message: str, reason: str) -> Response:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
    return status | {"message": message, "reason": reason}, code


def _openapi(version: str, kinds: dict[str, str]) -> dict[str, Any]:
    """Return a schema with server-side field validation, so that kubectl does not validate fields itself."""
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
    info = {"title": "fake", "version": "1"}
    return {"openapi": "3.0.0", "info": info, "paths": paths}
