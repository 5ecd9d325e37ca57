"""Remembers the project and region of the last command, and every place where a name was deployed. Pure."""

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from deploy.errors import UserError

FILE = Path("build/deploy/last.toml")
"""The emulator has a file of its own beside it. `make clean` keeps both."""


class Place(NamedTuple):
    """A project and a region of it."""

    project: str
    region: str

    def __str__(self) -> str:
        return f"{self.project}, {self.region}"


def load_defaults(api_endpoint: str) -> dict[str, str]:
    """Return the project and region of the last command; empty before the first one."""
    content = _read(_file(api_endpoint))
    return {name: content[name] for name in Place._fields if name in content}


def list_places(name: str, api_endpoint: str) -> list[Place]:
    """Return the places where a name was deployed, the newest last."""
    places = _read(_file(api_endpoint)).get("deployed", {}).get(name, [])
    return [Place(*place.split("/")) for place in places]


def save(place: Place, name: str, api_endpoint: str) -> None:
    """Save the place of a command that creates something, and that `name` was deployed there."""
    content = _read(_file(api_endpoint))
    deployed = content.get("deployed", {})
    deployed[name] = [*_without(deployed.get(name, []), place), "/".join(place)]
    _write(_file(api_endpoint), {**place._asdict(), "deployed": deployed})


def forget(place: Place, name: str, api_endpoint: str) -> None:
    """Forget a place in which nothing of `name` is left; its project and region stay the defaults."""
    content = _read(_file(api_endpoint))
    deployed = content.get("deployed", {})
    if "/".join(place) in deployed.get(name, []):
        deployed[name] = _without(deployed[name], place)
        _write(_file(api_endpoint), content)


def _without(places: list[str], place: Place) -> list[str]:
    return [each for each in places if each != "/".join(place)]


def _file(api_endpoint: str) -> Path:
    return FILE.with_name("emulator.toml") if api_endpoint else FILE


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        return tomllib.loads(file.read_text())
    except ValueError as error:
        hint = f"delete the file, and use PROJECT= and REGION= once; saved there: {_strings(file)}"
        raise UserError(f"{file} is not TOML: {error}", hint) from None


def _strings(file: Path) -> str:
    return ", ".join(re.findall(r'"[^"]*"', file.read_text())) or "nothing"


def _write(file: Path, content: dict[str, Any]) -> None:
    """Replace the file at once, so that an interruption leaves the old or the new one."""
    lines = [f"{name} = {json.dumps(content[name])}" for name in Place._fields if name in content]
    places = [
        f"{name} = {json.dumps(places)}" for name, places in content["deployed"].items() if places
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}")
    temporary.write_text("\n".join([*lines, "", "[deployed]", *places, ""]))
    temporary.replace(file)
