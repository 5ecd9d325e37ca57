"""Finds settings that are valid alone, but not together. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from deploy.machines import load_table

if TYPE_CHECKING:
    from deploy.settings import Settings

SHARED_TIMEOUT_S = 60
"""How long a shared endpoint waits for a container."""
MIN_IMAGE_PARTS = 3
"""Of an image's name after the host: project, repository, name."""
GOOGLE_IMAGES = "vertex-ai"
"""The project of Google's prebuilt images, in multi-regions."""


class Conflict(NamedTuple):
    """A setting that does not fit the others."""

    name: str
    text: str
    """What was found and what was expected; the error names the place of the setting."""
    hint: str = "fix it there, or in the option or variable that overrides it"


def find_conflicts(settings: Settings) -> Iterator[Conflict]:
    """Yield the conflicts of the settings, the first first."""
    yield from _replicas(settings)
    yield from _accelerators(settings)
    yield from _container(settings)
    if not settings.api_endpoint:  # the emulator has a registry of its own, for every region
        yield from _images(settings)


def _replicas(s: Settings) -> Iterator[Conflict]:
    if s.max_replicas < s.min_replicas and "max_replicas" in s.origins:
        text = f"max_replicas = {s.max_replicas} is less than min_replicas = {s.min_replicas}"
        yield Conflict("max_replicas", text)


def _accelerators(s: Settings) -> Iterator[Conflict]:
    kind, count, machine = s.accelerator_type, s.accelerator_count, s.machine_type
    possible = load_table().accelerators(machine)
    if count and not kind:
        text = f"accelerator_count = {count} without an accelerator_type"
        yield Conflict("accelerator_count", text)
    elif kind and not count:
        text = f"accelerator_type = {kind!r} without an accelerator_count"
        yield Conflict("accelerator_type", text)
    elif not kind and machine in load_table().accelerated:
        name, numbers = next(iter(possible.items()))
        text = f"machine_type = {machine!r} without its accelerator, {name}"
        hint = f'set accelerator_type = "{name}" and accelerator_count = {numbers[-1]}'
        yield Conflict("machine_type", text, hint)
    elif kind and kind not in possible:
        text = f"accelerator_type = {kind!r} does not fit machine_type = {machine!r}"
        hint = f"use it with {_machines_with(kind)}"
        yield Conflict("accelerator_type", text, hint)
    elif kind and count not in possible[kind]:
        numbers = possible[kind]
        text = f"accelerator_count = {count} does not fit machine_type = {machine!r}"
        hint = f"{machine} takes {', '.join(map(str, numbers)) or 'no'} {kind}"
        yield Conflict("accelerator_count", text, hint)


def _machines_with(accelerator: str) -> str:
    """Return the machine types that take an accelerator, in a few words."""
    table = load_table()
    own = [name for name, (kind, _) in table.accelerated.items() if kind == accelerator]
    return ", ".join(own) or "n1 machines"


def _container(s: Settings) -> Iterator[Conflict]:
    if s.health_route == s.predict_route:
        text = f"health_route and predict_route are both {s.health_route!r}: expected two routes"
        yield Conflict("health_route" if "health_route" in s.origins else "predict_route", text)
    seconds = s.response_timeout_s
    if seconds and seconds > SHARED_TIMEOUT_S and not s.dedicated:
        yield Conflict(
            "env",
            f"RESPONSE_TIMEOUT_S = {seconds}: a shared endpoint waits {SHARED_TIMEOUT_S} s at most",
            "set dedicated = true in the model's deploy.toml, or a shorter time in its [env]",
        )


def _images(s: Settings) -> Iterator[Conflict]:
    for name, value in (("registry", s.registry), ("image", s.image)):
        host, *path = value.split("/")
        if not value or path[:1] == [GOOGLE_IMAGES]:
            continue
        location = re.fullmatch(r"([a-z]+(?:-[a-z]+[0-9]+)?)-docker\.pkg\.dev", host)
        expected = f"{s.region}-docker.pkg.dev" + "/PROJECT/REPOSITORY/NAME" * (name == "image")
        if location is None or (name == "image" and len(path) < MIN_IMAGE_PARTS):
            hint = "make push pushes the image of the current sources there"
            yield Conflict(name, f"{name} = {value!r} should be {expected}", hint)
        elif location[1] != s.region:
            text = f"{name} = {value!r} is in {location[1]}, but region = {s.region!r}"
            hint = "Vertex AI needs the image in the model's region: push it there, or change the region"
            yield Conflict(name, text, hint)
