"""How Vertex AI starts a container: its variables, port, routes and rights."""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

LIVENESS_S = 40
"""Vertex tries a TCP connection up to four times, ten seconds apart, then restarts."""
READ_ONLY = ("--read-only", "--tmpfs=/tmp:size=1g")
LEAST = "--cap-drop=ALL --security-opt=no-new-privileges --user=10001 --memory=2g --pids-limit=256"
RIGHTS = {"vertex": (), "read-only": READ_ONLY, "least": (*READ_ONLY, *LEAST.split())}
"""What a container may do, as options of `docker run`: what Vertex AI lets it, or less."""


@dataclass(frozen=True)
class Options:
    """The options of the command line, which explains them."""

    image: str
    """Empty for a server that is no container."""
    instances: Path
    docker: str = "docker"
    rights: str = "vertex"
    junit: Path | None = None
    ready_s: float = 300
    liveness_s: float = LIVENESS_S
    port: int | None = None
    """None for a random one; likewise the routes."""
    health_route: str | None = None
    predict_route: str | None = None


class Variables(NamedTuple):
    """The AIP_* variables that the clauses use."""

    port: int
    health: str
    predict: str
    endpoint_id: str = "123"
    deployed_model_id: str = "456"

    def environ(self) -> dict[str, str]:
        """Return all the variables that Vertex sets for a CPU model with no artifact."""
        return {
            "AIP_HTTP_PORT": str(self.port),
            "AIP_HEALTH_ROUTE": self.health,
            "AIP_PREDICT_ROUTE": self.predict,
            "AIP_STORAGE_URI": "",
            "AIP_MODE": "PREDICTION",
            "AIP_MODE_VERSION": "1.0.0",
            "AIP_FRAMEWORK": "CUSTOM_CONTAINER",
            "AIP_PROJECT_NUMBER": "123456789012",
            "AIP_ENDPOINT_ID": self.endpoint_id,
            "AIP_MODEL_NAME": self.endpoint_id,
            "AIP_DEPLOYED_MODEL_ID": self.deployed_model_id,
            "AIP_VERSION_NAME": self.deployed_model_id,
            "AIP_MACHINE_TYPE": "n1-standard-2",
        }


def uploaded_with(options: Options) -> Variables:
    """Return the port and routes that the model is uploaded with; random where it names none.

    No image can have been made for random ones.
    """
    word = secrets.token_hex(4)
    health, predict = options.health_route or f"/h/{word}", options.predict_route or f"/p/{word}:x"
    return Variables(options.port or _random_port(), health, predict)


def default_routes(options: Options) -> Variables:
    """Return the routes that Vertex uses if a model names none."""
    endpoint, deployed = str(secrets.randbits(60)), str(secrets.randbits(60))
    health = f"/v1/endpoints/{endpoint}/deployedModels/{deployed}"
    port = options.port or _random_port()
    return Variables(port, health, f"{health}:predict", endpoint, deployed)


def _random_port() -> int:
    return 20_000 + secrets.randbelow(10_000)
