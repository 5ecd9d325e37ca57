"""The error of the programs that write a model."""

from project.cli import ProjectError


class NewModelError(ProjectError):
    """The model cannot be written. The text says why, and what to do."""
