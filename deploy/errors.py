"""The program's errors: one sentence each, and a hint on what to do."""


class DeployError(Exception):
    """Why a command stopped. The state on Google Cloud stays consistent, so the command can be run again."""

    def __init__(self, message: str, hint: str = "") -> None:
        """Take what is wrong, in one sentence, and what to do: a command where there is one."""
        super().__init__(message)
        self.message, self.hint = message, hint


class UserError(DeployError):
    """An error that the user has to fix."""


class TransientError(DeployError):
    """A broken connection, a busy API or a conflict: fetch the state again and retry."""

    def __init__(self, message: str) -> None:
        """Take what happened, in one sentence."""
        super().__init__(message, "run the same command again")


class InterruptedCommand(KeyboardInterrupt):
    """Ctrl-C or SIGTERM. Not a DeployError, so that nothing handles it as an error."""
