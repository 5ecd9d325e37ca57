"""Why a command stopped, for people: one sentence, and what to do."""


class UserError(Exception):
    """The command ends here; nothing is lost, and running it again goes on."""

    def __init__(self, what: str, do: str = "") -> None:
        """Say `what` happened, in one sentence, and what to `do` about it: a command where there is one."""
        super().__init__(what)
        self.message, self.hint = what, do


class InterruptedCommand(KeyboardInterrupt):
    """Somebody pressed Ctrl-C, or the machine asked to end. No Stop: nothing may take it for an error."""


class TransientError(Exception):
    """The connection broke, or Google was busy: look again at what there is and go on."""
