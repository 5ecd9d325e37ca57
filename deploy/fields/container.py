"""How Vertex AI runs the container."""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from deploy.fields.types import BUCKET, Account, Group, Route, matching
from project.model_folder import DEFAULT

TIMEOUT_VARIABLE, MAX_TIMEOUT_S = "RESPONSE_TIMEOUT_S", 3600
"""The container's variable for the time for a response, and its maximum: that of dedicated endpoints."""
MAX_VARIABLES, MAX_VARIABLE_LENGTH = 100, 32_768


def _check_environment(env: dict[str, str]) -> dict[str, str]:
    if len(env) > MAX_VARIABLES:
        raise ValueError(f"should contain at most {MAX_VARIABLES} variables")
    for name, value in env.items():
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(
                f"should not contain {name!r}: expected letters, digits and _, no digit first"
            )
        if name.startswith("AIP_"):
            raise ValueError(f"should not contain {name}, which Vertex AI sets itself")
        if "\0" in value or len(value) > MAX_VARIABLE_LENGTH:
            raise ValueError(
                f"{name} should have at most {MAX_VARIABLE_LENGTH} characters, none of them NUL"
            )
    timeout = env.get(TIMEOUT_VARIABLE, "1")
    if not re.fullmatch("[0-9]{1,4}", timeout) or not 1 <= int(timeout) <= MAX_TIMEOUT_S:
        raise ValueError(
            f"{TIMEOUT_VARIABLE} = {timeout!r} should be seconds from 1 to {MAX_TIMEOUT_S}"
        )
    return env


class Probe(Group):
    """A probe of the container. Kubernetes has the same arguments."""

    path: Route | None = None
    """path of a GET request that has to return 200"""
    command: list[str] = Field(default_factory=list)
    """command in the container that has to succeed, instead of a path"""
    period_s: Annotated[int, Field(ge=1, le=3600)] = 10
    """seconds between two probes"""
    timeout_s: Annotated[int, Field(ge=1, le=3600)] = 10
    """seconds until a probe fails"""
    failures: Annotated[int, Field(ge=1, le=1000)] = 3
    """number of failures in a row until the container counts as failed"""
    delay_s: Annotated[int, Field(ge=0, le=7200)] = 0
    """seconds before the first probe"""

    @model_validator(mode="after")
    def check(self) -> Self:
        """Check that there is one kind of probe, and Google's rule for the times."""
        if (self.path is None) == (not self.command):
            raise ValueError("should have either path or command")
        if self.timeout_s < self.period_s:
            raise ValueError(f"should have a timeout_s of at least its period_s = {self.period_s}")
        return self


class Container(Group):
    """How Vertex AI runs the container."""

    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    """port of the container"""
    health_route: Route = "/ping"
    """health route of the container"""
    predict_route: Route = f"/predictions/{DEFAULT}"
    """prediction route of the container"""
    shared_memory_mb: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """shared memory of the container; 0: Vertex AI's default"""
    service_account: Account = ""
    """service account of the container; empty: Vertex AI's own"""
    artifact_uri: Annotated[
        str, matching(rf"gs://{BUCKET}(/[^\s*?#]*)?|", "gs://BUCKET/FOLDER")
    ] = ""
    """gs:// folder with the weights or a model.mar; empty: the model in the image"""
    env: Annotated[dict[str, str], AfterValidator(_check_environment)] = Field(default_factory=dict)
    """environment variables of the container: the table [env] in deploy.toml"""

    deployment_timeout_minutes: Annotated[int, Field(ge=0, le=120)] = 0
    """minutes until a replica has to be healthy; 0: Vertex AI's default"""
    container_logging: bool = True
    """send the container's output to Cloud Logging"""
    access_logging: bool = False
    """log each request to Cloud Logging"""
    startup_probe: Probe | None = None
    """the table [startup_probe] in deploy.toml: delays the other probes until it succeeds"""
    health_probe: Probe | None = None
    """the table [health_probe] in deploy.toml: decides whether a replica gets requests"""
    liveness_probe: Probe | None = None
    """the table [liveness_probe] in deploy.toml: restarts the container if it fails"""

    @property
    def response_timeout_s(self) -> int | None:
        """The time for a response that [env] sets for the container; None: the container's default."""
        text = self.env.get(TIMEOUT_VARIABLE)
        return int(text) if text else None
