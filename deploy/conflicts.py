"""Finds settings that are valid alone, but not together. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from deploy.machines import load_table

if TYPE_CHECKING:
    from deploy.settings import Settings

ENDPOINT_KINDS = ("dedicated", "psc_projects", "network")
"""Settings that choose another type of endpoint than the shared one."""
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
    yield from _endpoint(settings)
    yield from _replicas(settings)
    yield from _accelerators(settings)
    yield from _container(settings)
    yield from _without_effect(settings)
    yield from find_build_conflicts(settings)


def find_build_conflicts(settings: Settings) -> Iterator[Conflict]:
    """Yield the conflicts of the settings of an image, which need not be for Vertex AI."""
    yield from _torch(settings)
    if not settings.api_endpoint:  # the emulator has a registry of its own, for every region
        yield from _images(settings)


def _torch(s: Settings) -> Iterator[Conflict]:
    """Yield an accelerator that the locked torch does not support."""
    if s.accelerator_type in load_table().cuda_12 and not (s.torch or s.image):
        text = f"accelerator_type = {s.accelerator_type!r}: the locked torch is for CUDA 13, which does not support it"
        hint = "set a torch for CUDA 12 and its torch_index: docs/gpu.md#the-driver"
        yield Conflict("accelerator_type", text, hint)


def _endpoint(s: Settings) -> Iterator[Conflict]:
    kinds = [name for name in ENDPOINT_KINDS if getattr(s, name)]
    if len(kinds) > 1:
        text = f"{kinds[1]} and {kinds[0]} are both set: an endpoint has one type"
        yield Conflict(kinds[1], text)
    seconds = s.response_timeout_s or 0
    if s.inference_timeout_s and not (s.dedicated or s.psc_projects):
        text = f"inference_timeout_s = {s.inference_timeout_s}: a shared endpoint waits {SHARED_TIMEOUT_S} s"
        hint = "set dedicated = true in the model's deploy.toml, or remove the line"
        yield Conflict("inference_timeout_s", text, hint)
    elif 0 < s.inference_timeout_s < seconds:
        text = f"inference_timeout_s = {s.inference_timeout_s} is less than RESPONSE_TIMEOUT_S = {seconds}"
        yield Conflict("inference_timeout_s", text)
    if seconds > SHARED_TIMEOUT_S and not kinds:
        text = (
            f"RESPONSE_TIMEOUT_S = {seconds}: a shared endpoint waits {SHARED_TIMEOUT_S} s at most"
        )
        hint = "set dedicated = true in the model's deploy.toml, or a shorter time in its [env]"
        yield Conflict("env", text, hint)
    key_region = s.kms_key.split("/")[3] if s.kms_key else s.region
    if key_region != s.region:
        text = f"kms_key is in {key_region}, but region = {s.region!r}: Vertex AI needs both in one region"
        yield Conflict("kms_key", text)


def _replicas(s: Settings) -> Iterator[Conflict]:
    if s.spot and s.reservation:
        yield Conflict(
            "reservation", "reservation and spot are both set: Spot VMs use no reservation"
        )
    if s.rolling and s.max_surge == s.max_unavailable == 0:
        text = "max_surge and max_unavailable are both 0: no replica could be replaced"
        yield Conflict("max_surge", text)
    if s.max_replicas < s.min_replicas and "max_replicas" in s.origins:
        text = f"max_replicas = {s.max_replicas} is less than min_replicas = {s.min_replicas}"
        yield Conflict("max_replicas", text)


def _accelerators(s: Settings) -> Iterator[Conflict]:
    kind, count, machine = s.accelerator_type, s.accelerator_count, s.machine_type
    possible = load_table().accelerators(machine)
    yield from _accelerator_number(s)
    if not kind and machine in load_table().accelerated:
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
    elif kind and s.region not in (
        regions := load_table().accelerator_regions.get(kind, [s.region])
    ):
        text = f"accelerator_type = {kind!r} is not available in region = {s.region!r}"
        hint = f"use one of {', '.join(regions)}; if Google has it there by now, add it to deploy/machines.toml"
        yield Conflict("accelerator_type", text, hint)
    yield from _partitions(s)
    if s.gpu_max_shared_clients:
        text = f"gpu_max_shared_clients = {s.gpu_max_shared_clients} has no effect on Vertex AI, only on GKE"
        hint = "set it in a file of its own, for make deploy-gke ARGS='--settings FILE', or remove the line"
        yield Conflict("gpu_max_shared_clients", text, hint)


def _partitions(s: Settings) -> Iterator[Conflict]:
    """Yield what a part of an accelerator does not fit, on Vertex AI and on GKE."""
    if not (size := s.gpu_partition_size):
        return
    kind, sizes = s.accelerator_type, load_table().partitions.get(s.accelerator_type)
    text = f"gpu_partition_size = {size!r}"
    if not kind:
        text = f"{text} has no effect without accelerator_type"
        yield Conflict("gpu_partition_size", text, "set accelerator_type too, or remove the line")
    elif sizes is None:
        hint = f"remove the line, or use one of {', '.join(load_table().partitions)}"
        yield Conflict("gpu_partition_size", f"{text}: {kind} cannot be divided", hint)
    elif sizes and size not in sizes:
        hint = f"use one of {', '.join(sizes)}"
        yield Conflict("gpu_partition_size", f"{text} is no part of {kind}", hint)
    elif s.accelerator_count > 1:
        text = f"accelerator_count = {s.accelerator_count} with {text}: a replica gets one part"
        yield Conflict("accelerator_count", text, "set accelerator_count = 1")


def find_gke_conflicts(s: Settings, *, duty_cycle: bool) -> Iterator[Conflict]:
    """Yield what cannot be deployed to GKE, of the settings that it uses and of the option --duty-cycle."""
    yield from _accelerator_number(s)
    yield from _partitions(s)
    yield from _torch(s)
    shared = f"gpu_max_shared_clients = {s.gpu_max_shared_clients}"
    if s.gpu_max_shared_clients and not s.accelerator_type:
        text = f"{shared} has no effect without accelerator_type"
        hint = "set accelerator_type too, or remove the line"
        yield Conflict("gpu_max_shared_clients", text, hint)
    elif s.gpu_max_shared_clients and s.accelerator_count > 1:
        text = (
            f"accelerator_count = {s.accelerator_count} with {shared}: GKE allows one for each pod"
        )
        yield Conflict("accelerator_count", text, "set accelerator_count = 1")
    if not duty_cycle:
        return
    if not s.accelerator_type:
        text = "--duty-cycle has no effect without accelerator_type"
        yield Conflict("accelerator_type", text, "set accelerator_type, or omit --duty-cycle")
    for name in ("gpu_partition_size", "gpu_max_shared_clients"):
        if value := getattr(s, name):
            text = f"--duty-cycle with {name} = {value!r}: GKE has no duty cycle of a pod there"
            yield Conflict(name, text, "use --queue-wait, or neither")


def _accelerator_number(s: Settings) -> Iterator[Conflict]:
    """Yield an accelerator without a number, or a number without an accelerator."""
    kind, count = s.accelerator_type, s.accelerator_count
    if count and not kind:
        text = f"accelerator_count = {count} without an accelerator_type"
        yield Conflict("accelerator_count", text)
    elif kind and not count:
        text = f"accelerator_type = {kind!r} without an accelerator_count"
        yield Conflict("accelerator_type", text)


def _machines_with(accelerator: str) -> str:
    """Return the machine types that take an accelerator, in a few words."""
    table = load_table()
    own = [name for name, (kind, _) in table.accelerated.items() if kind == accelerator]
    return ", ".join(own) or "n1 machines"


def _container(s: Settings) -> Iterator[Conflict]:
    if s.health_route == s.predict_route:
        text = f"health_route and predict_route are both {s.health_route!r}: expected two routes"
        yield Conflict("health_route" if "health_route" in s.origins else "predict_route", text)


def _without_effect(s: Settings) -> Iterator[Conflict]:
    """Yield settings that have an effect only with another one."""
    needed = {
        "psc_network": ("psc_projects", bool(s.psc_projects)),
        "request_log_table": ("request_log_percent", s.request_log_percent > 0),
        "gpu_percent": ("accelerator_type", bool(s.accelerator_type)),
        "idle_minutes": ("min_replicas = 0", s.min_replicas == 0),
        "min_up_minutes": ("min_replicas = 0", s.min_replicas == 0),
        "max_surge": ("rolling = true", s.rolling),
        "max_unavailable": ("rolling = true", s.rolling),
    }
    for name, (other, is_given) in needed.items():
        if name in s.origins and getattr(s, name) and not is_given:
            text = f"{name} = {getattr(s, name)!r} has no effect without {other}"
            yield Conflict(name, text, f"set {other} too, or remove the line")


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
