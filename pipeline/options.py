"""Old names of options, which keep working for one release."""

import sys

RENAMED = {
    "--examined": "--eval-instances",
    "--eval-pictures": "--eval-instances",
    "--least": "--min-score",
    "--min-accuracy": "--min-score",
}


def replace_old_names(arguments: list[str]) -> list[str]:
    """Return command-line arguments with old option names replaced; print a warning for each."""
    replaced = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in RENAMED:
            print(f"warning: {name} is deprecated: use {RENAMED[name]}", file=sys.stderr)
        replaced.append(f"{RENAMED.get(name, name)}{equals}{value}")
    return replaced
