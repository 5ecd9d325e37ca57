"""Ask before something is deleted."""

from deploy.errors import Stop


def agree(name: str) -> None:
    """Ask for the name; raise Stop where something else comes, or nothing."""
    try:
        answer = input(f"Type the name, {name}, to go on: ")
    except EOFError:
        raise Stop(
            "nobody is there to agree, so nothing was deleted", "--yes agrees beforehand"
        ) from None
    if answer.strip() != name:
        raise Stop("nothing was deleted", "it needs the name, or --yes")
