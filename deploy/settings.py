"""The settings of a deployment: from options, the environment, deploy.toml, and the defaults below.

Highest precedence first: an option (`--name`), a variable (DEPLOY_NAME), the file of the option --settings,
deploy.toml in the model's folder, deploy.toml, the saved project and region of the last command that created
something, the variables of Google's tools for the project (GOOGLE_CLOUD_PROJECT, CLOUDSDK_CORE_PROJECT), the default.
"""

import argparse
import os
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from deploy import places
from deploy.conflicts import Conflict, find_conflicts
from deploy.errors import UserError
from deploy.fields.build import Build
from deploy.fields.container import Container
from deploy.fields.endpoint import Endpoint
from deploy.fields.location import Location
from deploy.fields.machines import Machines
from deploy.fields.types import Group, suggest
from deploy.fingerprint import TorchBuild
from deploy.places import Place
from deploy.plan import Machine, Replicas
from project.model_folder import (
    DEFAULT,
    MODELS,
    VARIABLE,
    Model,
    ModelFolderError,
    add_model_option,
    find_model,
    list_models,
)

FILE = Path("deploy.toml")
TARGETS = (
    "archive|build|build-cloud|canary|contract|deploy-endpoint|deploy-function|deploy-gke|predict|promote|push"
    "|rollback|run|status|teardown|undeploy|undeploy-gke|upload-model"
)
"""The targets of make that are for one model."""
MAX_CHARS = 100
"""Of an invalid value in an error."""
AMBIENT_VARIABLES = ("GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT")
"""Variables of Google's tools with a project ID. Shells set them unasked, so what was used last overrides them."""

LAST_COMMAND = "the last command"
"""Where a saved project or region is from."""


class Settings(Location, Machines, Endpoint, Container, Build):
    """The settings of every command, a group in each base class."""

    sources: Model = Model(path=MODELS / DEFAULT, name=DEFAULT)
    """the model that is deployed; not a setting of a file"""
    origins: Mapping[str, str] = Field(default_factory=dict)
    """where each setting is set; not a setting of a file"""

    @property
    def place(self) -> Place:
        """The project and the region."""
        return Place(self.project, self.region)

    @property
    def named(self) -> set[str]:
        """Which of project and region this command names, by an option or a variable of its own."""
        prefixes = "--", "DEPLOY_"
        return {name for name, origin in self.origins.items() if origin.startswith(prefixes)}

    @property
    def place_with_origins(self) -> str:
        """The project and the region, and where each is set, in one line."""
        project, region = (self.origins.get(name, "the default") for name in Place._fields)
        if project == region:
            return f"project {self.project}, region {self.region} (from {project})"
        return f"project {self.project} (from {project}), region {self.region} (from {region})"

    @property
    def machine(self) -> Machine:
        """What each replica runs on."""
        accelerator, count = self.accelerator_type, self.accelerator_count
        return Machine(
            self.machine_type,
            accelerator,
            count,
            self.service_account,
            spot=self.spot,
            reservation=self.reservation,
            access_logging=self.access_logging,
            idle_minutes=0 if self.min_replicas else self.idle_minutes,
            min_up_minutes=0 if self.min_replicas else self.min_up_minutes,
            gpu_partition_size=self.gpu_partition_size,
        )

    @property
    def replicas(self) -> Replicas:
        """The number of replicas, and when it changes. A maximum below the minimum counts as the minimum."""
        return Replicas(
            self.min_replicas,
            max(self.min_replicas, self.max_replicas),
            self.cpu_percent,
            gpu_percent=self.gpu_percent if self.accelerator_count else 0,
            requests_per_minute=self.requests_per_minute,
            container_logging=self.container_logging,
        )

    @property
    def is_private(self) -> bool:
        """Whether the endpoint can be reached from its network only."""
        return bool(self.psc_projects or self.network)

    @property
    def torch_build(self) -> TorchBuild:
        """The torch of the image: for NVIDIA's GPUs if the machine has one."""
        return TorchBuild("gpu" if self.accelerator_type else "torch", self.torch, self.torch_index)

    @property
    def location(self) -> str:
        """The location's resource name."""
        return f"projects/{self.project}/locations/{self.region}"

    @property
    def model(self) -> str:
        """The model's resource name."""
        return f"{self.location}/models/{self.name}"

    @property
    def endpoint(self) -> str:
        """The endpoint's resource name."""
        return f"{self.location}/endpoints/{self.name}"

    @property
    def image_name(self) -> str:
        """The image's name, without tag or digest."""
        return f"{self.registry or f'{self.region}-docker.pkg.dev'}/{self.project}/{self.repository}/{self.name}"

    def add_model(self, text: str) -> str:
        """Return a message in which commands of make and deploy select this model, if it is not the default."""
        try:
            if find_model() == self.sources:
                return text
        except ModelFolderError:
            pass  # there is no default
        value = self.sources.selection.removeprefix(f"{VARIABLE}=")
        if self.sources.path == self.sources.archive:  # the upload to Cloud Build
            value = self.sources.name
        text = re.sub(rf"\bmake ({TARGETS})(?![\w-])", rf"\g<0> {VARIABLE}={value}", text)
        return re.sub(r"-m deploy [a-z-]+", rf"\g<0> --model {value}", text)


INTERNAL = ("sources", "origins")
FIELDS = {name: field for name, field in Settings.model_fields.items() if name not in INTERNAL}
GROUPS: dict[str, type[Group]] = {
    "place": Location,
    "endpoint": Endpoint,
    "machines": Machines,
    "container": Container,
    "image": Build,
}
"""Title in --help → the settings."""
MERGED_TABLES = ("env", "labels")
TABLES = (*MERGED_TABLES, "startup_probe", "health_probe", "liveness_probe")
"""Settings that are tables in deploy.toml, and have neither an option nor a variable."""
NAMED_BY_MODEL = {"name": "the name of the model", "predict_route": "/predictions/NAME"}
"""Settings whose default is a property of the model, and its description."""


def load(
    arguments: Mapping[str, Any],
    environment: Mapping[str, str] = os.environ,
    file: Path = FILE,
    *,
    needs_model: bool = True,
    check: bool = True,
) -> Settings:
    """Return the settings; `arguments` are options by name, of which None and other options are ignored.

    The option or the variable MODEL selects the model; a command without one sets `needs_model` to False. With
    `check`, settings that conflict are an error too: a command that only shows or deletes needs no such check.

    Raises:
        UserError: a setting is unknown or invalid; the message says where it is set and what was expected.

    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}

    def add(layer: Mapping[str, Any], source: str) -> None:
        """Override the values so far, except the other lines of [env] and [labels]; keep where each is set."""
        merged = {
            name: values.get(name, {}) | layer[name] for name in MERGED_TABLES if name in layer
        }
        values.update({**layer, **merged})
        origins.update(dict.fromkeys(layer, source))

    saved = places.load_defaults(environment.get("DEPLOY_API_ENDPOINT", ""))
    add(_validate(saved, str(places.FILE)), LAST_COMMAND)
    if needs_model:
        sources = _find_sources(arguments.get("model") or environment.get(VARIABLE))
        own = model_settings(sources)
        values |= {name: getattr(sources, name) for name in NAMED_BY_MODEL} | {"sources": sources}
        if file == FILE:
            first, second = file, own
            general, special = _read_settings(file), _read_settings(own)
            if not (arguments.get("name") or environment.get("DEPLOY_NAME")):
                _check_name(general, special, sources)
        else:
            first, second = own, file
            general, special = _read_settings(own), _read_settings(file, required=True)
        add(general, str(first))
        add(special, str(second))
    else:
        add(_read_settings(file, required=file != FILE), str(file))
    for name in set(FIELDS) - set(TABLES):
        if environment.get(variable := f"DEPLOY_{name.upper()}"):
            add(_validate({name: environment[variable]}, variable, strict=False), variable)
    for name, value in arguments.items():
        if name in FIELDS and value is not None:
            option = f"--{name.replace('_', '-')}"
            add(_validate({name: value}, option, strict=False), option)
    _add_ambient_project(values, origins, environment)
    derived = {name: values[name] for name in NAMED_BY_MODEL if name in values}
    _validate(derived, origins.get("name", "the model's name"))
    settings = Settings(**values, origins=origins)
    if not settings.project:
        raise UserError(
            "no project is set",
            'make deploy-endpoint PROJECT=my-project, or set project = "my-project" in deploy.toml, '
            "or the variable GOOGLE_CLOUD_PROJECT",
        )
    if check:
        check_conflicts(settings, find_conflicts(settings), file)
    return settings


def check_conflicts(settings: Settings, conflicts: Iterable[Conflict], file: Path = FILE) -> None:
    """Raise UserError for the first conflict; the message names where the setting is set, or else the file."""
    for conflict in conflicts:
        origin = settings.origins.get(conflict.name, str(file))
        raise UserError(f"{origin}: {conflict.text}", conflict.hint)


def _add_ambient_project(
    values: dict[str, Any], origins: dict[str, str], environment: Mapping[str, str]
) -> None:
    """Use the project of Google's tools if no other is set; otherwise add to its origin that it is overridden."""
    variable = next(filter(environment.get, AMBIENT_VARIABLES), None)
    if variable is None:
        return
    project = environment[variable]
    if "project" not in values:
        values |= _validate({"project": project}, variable)
        origins["project"] = variable
    elif values["project"] != project and origins["project"] == LAST_COMMAND:
        origins["project"] += f", which overrides {variable}={project}"


def save_place(settings: Settings) -> None:
    """Save the project and region for the next commands: this one creates something there."""
    places.save(settings.place, settings.name, settings.api_endpoint)


def add_options(parser: argparse.ArgumentParser, names: Collection[str] = FIELDS.keys()) -> None:
    """Add --model, --dry-run, --settings, and an option for each of these settings except the table [env]."""
    add_model_option(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="print the changes without making them"
    )
    parser.add_argument(
        "--settings",
        type=Path,
        default=FILE,
        metavar="FILE",
        help="settings file (default: deploy.toml)",
    )
    for title, fields in GROUPS.items():
        group = parser.add_argument_group(f"settings of the {title}")
        for name in [each for each in fields.model_fields if each in names and each not in TABLES]:
            field = FIELDS[name]
            options: Any = {"metavar": name.rpartition("_")[2].upper()}
            if field.annotation is bool:
                options = {"action": argparse.BooleanOptionalAction, "default": None}
            default = describe_default(name)
            text = f"{field.description}{f' (default: {default})' if default else ''}"
            group.add_argument(
                f"--{name.replace('_', '-')}", help=text.replace("%", "%%"), **options
            )


def describe_default(name: str) -> str:
    """Return the default of a setting as --help shows it; "" if it is empty."""
    default = FIELDS[name].get_default(call_default_factory=True)
    if isinstance(default, bool):
        return "yes" if default else "no"
    text = f"{default:g}" if isinstance(default, int | float) else str(default or "")
    return NAMED_BY_MODEL.get(name, text)


def _validate(values: dict[str, Any], source: str, *, strict: bool = True) -> dict[str, Any]:
    """Return the values as their types; raise UserError for the first invalid one, which names its source."""
    if unknown := [name for name in values if name not in FIELDS]:
        reason = f"{source}: unknown setting {_shorten(unknown[0])}{suggest(unknown[0], FIELDS)}"
        raise UserError(reason, f"the settings are: {', '.join(FIELDS)}")
    try:
        checked = Settings.model_validate(values, strict=strict)
    except ValidationError as invalid:
        error = invalid.errors()[0]
    else:
        return {name: getattr(checked, name) for name in values}
    name, value = ".".join(map(str, error["loc"])), error["input"]
    expected = error["msg"].removeprefix("Value error, ").partition(", unable to")[0]
    expected = expected.replace("Input should", "should")
    setting = name if isinstance(value, dict) else f"{name} = {_shorten(value)}"
    raise UserError(f"{source}: {setting} {expected}".replace("\n", " "), "fix this setting")


def _shorten(value: Any) -> str:
    """Return a value as an error shows it."""
    text = repr(value)
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}…"


def model_settings(model: Model) -> Path:
    """Return the path of the model's own deploy.toml. Of an archive it is the one that was copied beside it."""
    return (model.build if model.is_archive else model.path) / FILE


def _find_sources(value: str | None) -> Model:
    try:
        return find_model(value)
    except (ModelFolderError, OSError) as error:
        raise UserError(
            f"{error}".replace("\n", " "), "make check MODEL=… checks a model"
        ) from None


def _check_name(general: dict[str, Any], special: dict[str, Any], sources: Model) -> None:
    """Raise UserError if deploy.toml sets one name for several models, which would then share an endpoint."""
    others = [name for name in list_models() if (MODELS / name).resolve() != sources.path.resolve()]
    if "name" in general and "name" not in special and others:
        raise UserError(
            f"{FILE}: name = {general['name']!r} is for every model, also for {', '.join(others)}",
            f"move the line to {model_settings(sources)}",
        )


def _read_settings(path: Path, *, required: bool = False) -> dict[str, Any]:
    """Return the validated settings in a file; raise UserError."""
    if not required and not path.exists():
        return {}
    try:
        content = tomllib.loads(path.read_text("utf-8-sig"))  # editors of Windows write the mark
    except OSError as error:
        hint = "name a readable file, or omit --settings"
        raise UserError(f"{path} cannot be read: {error.strerror}", hint) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}", "save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not TOML: {error}", "fix that line") from None
    return _validate(content, str(path))
