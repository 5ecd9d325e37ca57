"""The errors that end the container. Its last log line has their text."""

from serving.errors import ServingError


class ContainerError(ServingError):
    """The base of the container's errors."""


class ConfigError(ContainerError):
    """An environment variable is invalid; the text names it."""


class StartupError(ContainerError):
    """The container cannot start or cannot continue to serve."""
