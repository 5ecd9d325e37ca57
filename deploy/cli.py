"""What the command lines have in common: exit codes, signals, a confirmation."""

import signal
import sys
from collections.abc import Callable
from typing import Any

from deploy.errors import InterruptedCommand, TransientError, UserError


def run(program: str, work: Callable[[], None], interrupted: str = "") -> None:
    """Call `work`; exit with 1 and the reason if it stops, with 130 and `interrupted`, if any, at Ctrl-C."""
    try:
        work()
    except InterruptedCommand:
        if interrupted:
            say(f"\ninterrupted. {interrupted}")
        sys.exit(130)
    except (UserError, TransientError) as stop:
        advice = stop.hint if isinstance(stop, UserError) else "run the same command again"
        print(f"{program}: {stop}", *filter(None, [advice]), sep="\n  ", file=sys.stderr)
        sys.exit(1)


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def handle_signals() -> None:
    """End the command in good order at Ctrl-C, and where the machine ends it."""
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)


def interrupt(*_: Any) -> None:
    """End the command in good order."""
    raise InterruptedCommand


def confirm(name: str, found: list[str], *, yes: bool) -> None:
    """Say what will be gone, and ask for the name unless `yes`; raise Stop if it is not typed."""
    for line in ("This will be gone:", *(f"  {each}" for each in found)):
        say(line)
    if yes:
        return
    try:
        answer = input(f"Type the name, {name}, to go on: ")
    except EOFError:
        raise UserError(
            "nobody is there to agree, so nothing was deleted", "--yes agrees beforehand"
        ) from None
    if answer.strip() != name:
        raise UserError("nothing was deleted", "it needs the name, or --yes")
