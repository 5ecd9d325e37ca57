"""The errors that end the container. Its last log line has their text."""

import signal

from serving.errors import ServingError


class ContainerError(ServingError):
    """The base of the container's errors."""


class ConfigError(ContainerError):
    """An environment variable is invalid; the text names it."""


class StartupError(ContainerError):
    """The container cannot start or cannot continue to serve."""


def describe_exit(code: int) -> str:
    """Return how a process ended, as the end of a sentence."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"exited with code {code}"
