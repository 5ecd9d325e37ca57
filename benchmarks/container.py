"""A container of the image under measurement, and a client for it."""

import http.client
import subprocess
import sys
import time

PORT = 8080
HEALTH, PREDICT = "/ping", "/predict"
START_S = 150.0
REASON = "cannot serve: "
"""What stands before the reason for which a container ended."""


class Container:
    """One container, on Docker's bridge, with the routes above."""

    def __init__(self, docker: str, image: str, *options: str) -> None:
        """Start it; raise CalledProcessError."""
        self._docker = docker
        self.name = self.run(
            "run",
            "--detach",
            *options,
            "--env",
            f"AIP_HTTP_PORT={PORT}",
            "--env",
            f"AIP_HEALTH_ROUTE={HEALTH}",
            "--env",
            f"AIP_PREDICT_ROUTE={PREDICT}",
            "--env",
            "LOG_FORMAT=text",
            image,
        )

    def run(self, *arguments: str, timeout_s: float = 60) -> str:
        """Run one docker command; raise CalledProcessError."""
        done = subprocess.run(
            [self._docker, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=True,
        )
        return done.stdout.strip()

    def python(self, program: str, *arguments: str) -> None:
        """Run a program inside, and do not wait for its end."""
        self.run("exec", "--detach", self.name, "/opt/venv/bin/python", "-c", program, *arguments)

    def address(self) -> str:
        """Return its address on Docker's bridge."""
        where = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return self.run("inspect", "--format", where, self.name)

    @property
    def url(self) -> str:
        """Where it predicts."""
        return f"http://{self.address()}:{PORT}{PREDICT}"

    def restarts(self) -> int:
        """Return how often it ended by itself and was started again."""
        return int(self.run("inspect", "--format", "{{.RestartCount}}", self.name))

    def last_words(self) -> list[str]:
        """Return what it gave as reasons for its ends."""
        done = subprocess.run(
            [self._docker, "logs", self.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        lines = done.stdout.splitlines()
        return [line[line.index(REASON) :] for line in lines if REASON in line]

    def wait_until_healthy(self) -> None:
        """Return once its health route says 200; end the program where it never does."""
        host, deadline = self.address(), time.monotonic() + START_S
        while not healthy(host):
            if time.monotonic() > deadline:
                sys.exit(f"no healthy container within {START_S:.0f} s: docker logs {self.name}")
            time.sleep(0.1)

    def remove(self) -> None:
        """End it."""
        self.run("rm", "--force", self.name)


class Client:
    """One client; it keeps its connection, as Vertex does."""

    def __init__(self, host: str, timeout_s: float) -> None:
        self._connection = http.client.HTTPConnection(host, PORT, timeout=timeout_s)

    def ask(self, path: str, body: bytes | None = None) -> int | str:
        """Send one request; return the status, or why there is none."""
        method = "GET" if body is None else "POST"
        try:
            self._connection.request(method, path, body, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            response.read()
            return response.status
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            refused = isinstance(error, (ConnectionRefusedError, TimeoutError))
            return type(error).__name__ if refused else "cut off"


def healthy(host: str) -> bool:
    """Ask the health route."""
    return Client(host, 10).ask(HEALTH) == 200
