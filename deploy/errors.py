"""The errors of `deploy`: each has a message of one sentence and a hint on what to do."""


class DeployError(Exception):
    """The base class of these errors. The command that raises one can be run again."""

    def __init__(self, message: str, hint: str = "") -> None:
        """Store what is wrong, in one sentence, and what to do, if possible as a command."""
        super().__init__(message)
        self.message, self.hint = message, hint


class UserError(DeployError):
    """An error that the user has to fix."""


class ApiDisabledError(UserError):
    """An API is not enabled in the project, so it has no resources there."""


class PermissionDeniedError(UserError):
    """The caller lacks a permission; another account, such as Vertex AI's own, may have it."""


class TransientError(DeployError):
    """A broken connection, a busy API or a conflict: fetch the state again and retry."""

    def __init__(self, message: str) -> None:
        """Store what happened, in one sentence."""
        super().__init__(message, "run the same command again")


class InterruptedCommand(KeyboardInterrupt):
    """Ctrl-C or SIGTERM. Not a DeployError, so that nothing handles it as an error."""
