"""Docker commands and containers, for every program and test of this repository that uses them.

It runs a command-line client instead of the Docker SDK for Python: the SDK cannot build with
BuildKit, and with DOCKER=podman the client is Podman's. This module imports nothing of the project.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

COMMAND_TIMEOUT_S = 120


class DockerError(Exception):
    """A Docker command failed or timed out; the message holds the command and its error output."""


@dataclass(frozen=True)
class Docker:
    """A Docker client; calling it runs one command: `docker("pull", image)`."""

    program: str = "docker"
    """Name or path of the client."""

    def __call__(self, *arguments: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run a command and return its standard output, stripped; raise DockerError."""
        return self._run(arguments, timeout_s, subprocess.PIPE).strip()

    def logs(self, container: str, *, tail: int | None = None) -> str:
        """Return a container's standard output and standard error; raise DockerError.

        With `tail`, only that many lines from the end.
        """
        options = () if tail is None else ("--tail", str(tail))
        return self._run(("logs", *options, container), COMMAND_TIMEOUT_S, subprocess.STDOUT)

    def start(
        self,
        image: str,
        *options: str,
        env: Mapping[str, str] | None = None,
        command: Sequence[str] = (),
    ) -> "Container":
        """Start a container in the background and return it; raise DockerError.

        `options` are those of `docker run`; `command` replaces the image's own.
        """
        variables = [f"--env={name}={value}" for name, value in (env or {}).items()]
        return Container(self, self("run", "--detach", *options, *variables, image, *command))

    def is_available(self) -> bool:
        """Return whether the client is installed and a Docker engine responds."""
        try:
            self("version", timeout_s=30)
        except DockerError:
            return False
        return True

    def _run(self, arguments: tuple[str, ...], timeout_s: float, stderr: int) -> str:
        command = f"{self.program} {' '.join(arguments)}"
        try:
            completed = subprocess.run(
                [self.program, *arguments],
                env=dict(os.environ),  # a copy: another thread may change the variables meanwhile
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DockerError(f"{command}: timed out after {timeout_s:g} s") from None
        except OSError as error:
            raise DockerError(f"{self.program} cannot be run: {error.strerror}") from None
        if completed.returncode != 0:
            raise DockerError(f"{command}:\n{(completed.stderr or completed.stdout).strip()}")
        return completed.stdout


@dataclass(frozen=True)
class Container:
    """A container that was started; it may have ended. Every member raises DockerError."""

    docker: Docker
    name: str
    """Its ID or name."""

    def inspect(self, template: str) -> str:
        """Return the result of a Go template, such as `{{.State.ExitCode}}`."""
        return self.docker("inspect", "--format", template, self.name)

    @property
    def address(self) -> str:
        """The IP address on Docker's bridge network; empty if the container has ended."""
        return self.inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")

    @property
    def is_running(self) -> bool:
        """Whether the main process runs."""
        return self.inspect("{{.State.Running}}") == "true"

    @property
    def exit_code(self) -> int:
        """The exit code of the main process; 0 while it runs."""
        return int(self.inspect("{{.State.ExitCode}}"))

    def logs(self, *, tail: int | None = None) -> str:
        """Return the container's standard output and standard error, see Docker.logs."""
        return self.docker.logs(self.name, tail=tail)

    def exec(self, *command: str, detach: bool = False) -> str:
        """Run a command in the container and return its output; with `detach`, do not wait for it."""
        options = ("--detach",) if detach else ()
        return self.docker("exec", *options, self.name, *command)

    def remove(self) -> None:
        """Kill the container, and delete it with its anonymous volumes."""
        self.docker("rm", "--force", "--volumes", self.name)
