"""What the programs about a model share: errors in one line, and exit codes."""

import sys
from collections.abc import Callable


class ProjectError(Exception):
    """A program cannot do its work. The text says why, and what to do."""


def run(program: str, command: Callable[[], object], *errors: type[Exception]) -> None:
    """Call `command`; exit with the text of a ProjectError or one of `errors`, or with 130 after Ctrl-C."""
    reported: tuple[type[Exception], ...] = (ProjectError, *errors)
    try:
        command()
    except reported as error:
        sys.exit(f"{program}: {error}")
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
