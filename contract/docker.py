"""Docker through its command-line client, as every program and test of this repository uses it.

The client and not the docker SDK: the SDK cannot build with BuildKit, and `DOCKER=podman` or
`DOCKER="/usr/bin/docker"` must work. This module imports nothing of the project.
"""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TIMEOUT_S = 120


class DockerError(Exception):
    """A docker command failed or timed out; the text names the command and what it printed."""


@dataclass(frozen=True)
class Docker:
    """A docker client, called with the words of one command: `docker("pull", image)`."""

    client: str = "docker"
    """Name or path of the program."""

    def __call__(self, *arguments: str, timeout_s: float = TIMEOUT_S) -> str:
        """Run one command and return its standard output, stripped; raise DockerError."""
        return self._run(arguments, timeout_s, subprocess.PIPE).strip()

    def logs(self, container: str, *, tail: int | None = None) -> str:
        """Return what a container wrote to both of its streams; raise DockerError."""
        lines = () if tail is None else ("--tail", str(tail))
        return self._run(("logs", *lines, container), TIMEOUT_S, subprocess.STDOUT)

    def start(
        self,
        image: str,
        *options: str,
        env: Mapping[str, str] | None = None,
        command: Sequence[str] = (),
    ) -> "Container":
        """Start a container in the background with options of `docker run`; raise DockerError."""
        variables = [
            word for name, value in (env or {}).items() for word in ("--env", f"{name}={value}")
        ]
        return Container(self, self("run", "--detach", *options, *variables, image, *command))

    def is_available(self) -> bool:
        """Return whether the client exists and an engine answers it."""
        try:
            self("version", timeout_s=30)
        except DockerError:
            return False
        return True

    def _run(self, arguments: tuple[str, ...], timeout_s: float, stderr: int) -> str:
        line = f"{self.client} {' '.join(arguments)}"
        try:
            done = subprocess.run(
                [self.client, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DockerError(f"{line}: timed out after {timeout_s:g} s") from None
        except OSError as error:
            raise DockerError(f"{line}: {error}") from None
        if done.returncode != 0:
            raise DockerError(f"{line}:\n{(done.stderr or done.stdout).strip()}")
        return done.stdout


@dataclass(frozen=True)
class Container:
    """A container that was started; it may have ended since. Every method raises DockerError."""

    docker: Docker
    name: str
    """Its ID or name."""

    def inspect(self, template: str) -> str:
        """Return one field, by a Go template such as `{{.State.ExitCode}}`."""
        return self.docker("inspect", "--format", template, self.name)

    @property
    def address(self) -> str:
        """Its IP address on Docker's bridge; empty once it has ended."""
        return self.inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")

    @property
    def is_running(self) -> bool:
        """Whether its first process still runs."""
        return self.inspect("{{.State.Running}}") == "true"

    @property
    def exit_code(self) -> int:
        """The exit code of its first process; 0 while it runs."""
        return int(self.inspect("{{.State.ExitCode}}"))

    def logs(self, *, tail: int | None = None) -> str:
        """Return what it wrote to standard output and standard error."""
        return self.docker.logs(self.name, tail=tail)

    def exec(self, *command: str, detach: bool = False) -> str:
        """Run a command inside and return its standard output."""
        options = ("--detach",) if detach else ()
        return self.docker("exec", *options, self.name, *command)

    def remove(self) -> None:
        """Kill and delete it."""
        self.docker("rm", "--force", "--volumes", self.name)
