"""What the command lines share: exit codes, signals, progress, confirmation."""

import signal
import sys
from collections.abc import Callable

from deploy.errors import DeployError, InterruptedCommand, UserError
from deploy.settings import Settings


def run(
    program: str, command: Callable[[], None], interrupted: Callable[[], str] = lambda: ""
) -> None:
    """Call `command`; exit with 1 and the message of a DeployError, or with 130 after an interruption.

    `interrupted` returns what is printed after an interruption.
    """
    try:
        command()
    except InterruptedCommand:
        report(f"\ninterrupted. {interrupted()}".strip(" "))
        sys.exit(130)
    except DeployError as error:
        lines = filter(None, [error.hint])
        print(f"{program}: {error.message}", *lines, sep="\n  ", file=sys.stderr)
        sys.exit(1)


def report(line: str) -> None:
    """Print a line of progress, unbuffered."""
    print(line, flush=True)


def report_place(settings: Settings) -> None:
    """Print the project and the region, and where they are set, beside the output of the command."""
    print(settings.place_with_origins, file=sys.stderr, flush=True)


def handle_signals() -> None:
    """Let SIGTERM and SIGINT raise InterruptedCommand."""
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)


def interrupt(*_: object) -> None:
    """Raise InterruptedCommand."""
    raise InterruptedCommand


def confirm(name: str, items: list[str], *, yes: bool) -> None:
    """Print what will be deleted and, unless `yes`, ask for `name`; raise UserError if it is not typed."""
    for line in ("This will be deleted:", *(f"  {item}" for item in items)):
        report(line)
    if yes:
        return
    try:
        answer = input(f"Type {name} to delete all of it: ")
    except EOFError:
        hint = "use --yes to delete without a prompt"
        raise UserError("no terminal to confirm; nothing was deleted", hint) from None
    if answer.strip() != name:
        raise UserError("not confirmed; nothing was deleted", f"type {name}, or use --yes")
