"""The container's errors. Each text is the container's last log line."""

from serving.errors import ServingError


class ContainerError(ServingError):
    """The base of the container's errors."""


class ConfigError(ContainerError):
    """An environment variable is invalid; the text names it."""


class StartupError(ContainerError):
    """The container cannot start, or cannot go on serving."""
