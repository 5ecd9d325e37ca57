"""A container as Vertex AI starts it: variables, port and routes."""

import secrets
import subprocess
import time
from typing import NamedTuple

LIVENESS_S = 40
"""Vertex tries a TCP connection up to four times, ten seconds apart, then restarts."""
PROBE_S = 10
"""How long a health answer may take."""


class DockerFailed(Exception):
    """A docker command failed; the text is what it printed."""


class Variables(NamedTuple):
    """The AIP_* variables that the tests look at."""

    port: int
    health: str
    predict: str
    endpoint_id: str
    deployed_model_id: str

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


def uploaded_with(options: "Options") -> Variables:
    """Return the port and routes that a model was uploaded with; where it names none, of chance.

    Those no image can have been made for.
    """
    word = secrets.token_hex(4)
    health, predict = options.health or f"/h/{word}", options.predict or f"/p/{word}:predict"
    return Variables(options.port or _some_port(), health, predict, "123", "456")


def default_routes(options: "Options") -> Variables:
    """Return the routes that Vertex takes where a model names none."""
    endpoint, deployed = str(secrets.randbits(60)), str(secrets.randbits(60))
    health = f"/v1/endpoints/{endpoint}/deployedModels/{deployed}"
    return Variables(options.port or _some_port(), health, f"{health}:predict", endpoint, deployed)


def _some_port() -> int:
    return 20_000 + secrets.randbelow(10_000)


READ_ONLY = ("--read-only", "--tmpfs", "/tmp:size=1g")  # noqa: S108  inside the container
RIGHTS = {
    "vertex": (),
    "read-only": READ_ONLY,
    "least": (
        *READ_ONLY,
        "--cap-drop",
        "ALL",
        "--security-opt",
        "no-new-privileges",
        "--user",
        "10001",
        "--memory",
        "2g",
        "--pids-limit",
        "256",
    ),
}
"""What a container may do, as docker run is told it: what Vertex AI lets it, or less."""


class Options(NamedTuple):
    """What the suite was asked to do."""

    image: str
    docker: str
    rights: str
    """One of RIGHTS."""
    ready_s: float
    """How long the model may take to become healthy."""
    liveness_s: float = LIVENESS_S
    port: int | None = None
    """The first of containerSpec.ports; None for one of chance."""
    health: str | None = None
    """containerSpec.healthRoute; None for one of chance. The same of `predict`."""
    predict: str | None = None


class Container:
    """One started container; the times are seconds since its start."""

    def __init__(self, options: Options, variables: Variables) -> None:
        """Start it; raise DockerFailed."""
        self.options, self.variables = options, variables
        environ = [w for pair in variables.environ().items() for w in ("--env", "=".join(pair))]
        rights = RIGHTS[options.rights]
        self.name = self.docker("run", "--detach", *rights, *environ, options.image)
        self.began = time.monotonic()

    def docker(self, *arguments: str) -> str:
        """Run one docker command and return what it printed; raise DockerFailed."""
        try:
            done = subprocess.run(
                [self.options.docker, *arguments],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise DockerFailed(f"docker {' '.join(arguments)}: no answer in 120 s") from error
        if done.returncode != 0:
            raise DockerFailed(f"docker {' '.join(arguments)}:\n{done.stderr}")
        return done.stdout.strip()

    @property
    def address(self) -> str:
        """Its IP address on Docker's bridge; empty once it has ended."""
        where = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return self.docker("inspect", "--format", where, self.name)

    @property
    def running(self) -> bool:
        """Whether its first process is still there."""
        return self.docker("inspect", "--format", "{{.State.Running}}", self.name) == "true"

    def last_lines(self) -> str:
        """Return the end of its log, for a person who asks why."""
        done = subprocess.run(
            [self.options.docker, "logs", "--tail", "5", self.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout

    def remove(self) -> None:
        """End it."""
        self.docker("rm", "--force", self.name)
