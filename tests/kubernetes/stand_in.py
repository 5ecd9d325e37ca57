"""An emulator of the APIs that gcloud and kubectl call here: GKE's control plane, a registry, an API server.

It keeps the objects that are applied, and reports every Deployment as ready or stuck; nothing is
started. Objects are validated against Kubernetes' schemas elsewhere.
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
}
READY = {"type": "Available", "status": "True"}
STUCK = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
Answer = tuple[dict[str, Any], int]


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
    clusters: tuple[str, ...] = ("v1/projects/my-project/locations/us-central1/clusters/c1",)
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
    certificate = base64.b64encode(authority.cert_pem.bytes()).decode()
    with serve_app(_cluster(world), context=context) as address:
        world.described = {
            "name": "c1",
            "status": "RUNNING",
            "location": "us-central1",
            "endpoint": address,
            "masterAuth": {"clusterCaCertificate": certificate},
        }
        with serve_app(_google(world)) as google:
            world.url = f"http://{google}"
            yield world


def environment(world: World, folder: Path) -> dict[str, str]:
    """Return the variables with which gcloud and kubectl's plugin come here; `folder` keeps what they write."""
    token = folder / "token"
    token.write_text("a-token")
    return {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "CLOUDSDK_CONFIG": str(folder / "gcloud"),
        "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(token),
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_CONTAINER": f"{world.url}/",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        "CLOUDSDK_CORE_DISABLE_FILE_LOGGING": "true",
        "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
    }


def _google(world: World) -> Flask:
    app = Flask(__name__)

    @app.get("/v2/<path:_>")
    def digest(_: str) -> tuple[dict[str, Any], int, dict[str, str]]:
        return {}, 200 if world.digest else 404, {"Docker-Content-Digest": world.digest}

    @app.get("/<path:where>")
    def cluster(where: str) -> Answer:
        if where in world.clusters:
            return world.described, 200
        error = {"code": 404, "message": f"Not found: {where}.", "status": "NOT_FOUND"}
        return {"error": error}, 404

    return app


def _cluster(world: World) -> Flask:
    app = Flask(__name__)

    @app.before_request
    def keep_token() -> None:
        world.tokens.add(request.headers.get("Authorization", ""))

    @app.get("/api")
    def core() -> Answer:
        return {"kind": "APIVersions", "versions": ["v1"]}, 200

    @app.get("/apis")
    def groups() -> Answer:
        found = []
        for each in filter(lambda each: "/" in each, world.served):
            group, _, version = each.partition("/")
            preferred = {"groupVersion": each, "version": version}
            found.append({"name": group, "versions": [preferred], "preferredVersion": preferred})
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": found}, 200

    @app.get("/openapi/v3")
    def schemas() -> Answer:
        where = [f"api{'s' if '/' in each else ''}/{each}" for each in world.served]
        paths = {each: {"serverRelativeURL": f"/openapi/v3/{each}?hash=1"} for each in where}
        return {"paths": paths}, 200

    @app.get("/openapi/v3/api/<path:version>")
    @app.get("/openapi/v3/apis/<path:version>")
    def schema(version: str) -> Answer:
        return _openapi(version, world.served[version]), 200

    @app.get("/api/<version>")
    @app.get("/apis/<group>/<version>")
    def resources(version: str, group: str = "") -> Answer:
        named = f"{group}/{version}" if group else version
        if named not in world.served:
            return _refusal(404, f"{named} not found", "NotFound")
        found = [
            {
                "name": plural,
                "singularName": kind.lower(),
                "kind": kind,
                "namespaced": kind != "Namespace",
                "verbs": ["get", "list", "patch", "delete"],
            }
            for kind, plural in world.served[named].items()
        ]
        return {"kind": "APIResourceList", "groupVersion": named, "resources": found}, 200

    @app.get("/apis/apps/v1/namespaces/<_>/deployments")
    def deployments(_: str) -> Answer:
        found = [thing for key, thing in world.objects.items() if key.startswith(request.path)]
        listed = {"kind": "DeploymentList", "apiVersion": "apps/v1", "items": found}
        return listed | {"metadata": {"resourceVersion": "1"}}, 200

    @app.get("/<path:_>")
    def get(_: str) -> Answer:
        if request.path in world.objects:
            return world.objects[request.path], 200
        return _refusal(404, f"{request.path} not found", "NotFound")

    @app.patch("/<path:path>")
    def apply(path: str) -> Answer:
        """Keep the object as the client has it."""
        assert request.content_type == "application/apply-patch+yaml"
        space = path.partition("/namespaces/")[2].split("/")
        if len(space) > 1 and f"Namespace/{space[0]}" not in world.names():
            return _refusal(404, f'namespaces "{space[0]}" not found', "NotFound")
        thing = yaml.safe_load(request.data)
        thing["metadata"] |= {"generation": 1, "uid": path, "resourceVersion": "1"}
        if thing["kind"] == "Deployment":
            thing["spec"]["replicas"] = 3
            thing["status"] = {
                "observedGeneration": 1,
                "replicas": 3,
                "updatedReplicas": 3,
                "availableReplicas": 0 if world.stuck else 3,
                "conditions": [STUCK if world.stuck else READY],
            }
        world.objects[request.path] = thing
        return thing, 201

    @app.delete("/<path:_>")
    def delete(_: str) -> Answer:
        gone = world.objects.pop(request.path)["metadata"]
        details = {"name": gone["name"], "uid": gone["uid"]}
        done = {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": details}
        return done, 200

    return app


def _refusal(code: int, message: str, reason: str) -> Answer:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
    return status | {"message": message, "reason": reason}, code


def _openapi(version: str, kinds: dict[str, str]) -> dict[str, Any]:
    """Return a schema by which the server checks fields itself: kubectl leaves it to it then."""
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
