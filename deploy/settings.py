"""The settings of a deployment: from options, the environment, deploy.toml, and the defaults below.

Highest precedence first: an option (`--name`), a variable (DEPLOY_NAME), the file of the option --settings,
deploy.toml in the model's folder, deploy.toml, the saved project and region of the last command that created
something, the variables of Google's tools for the project (GOOGLE_CLOUD_PROJECT, CLOUDSDK_CORE_PROJECT), the default.
"""

import argparse
import os
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from deploy import places
from deploy.errors import UserError
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
AMBIENT_VARIABLES = ("GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT")
"""Variables of Google's tools with a project ID. Shells set them unasked, so what was used last overrides them."""


def _matching(pattern: str, expected: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"should be {expected}")
        return text

    return AfterValidator(check)


def _check_environment(env: dict[str, str]) -> dict[str, str]:
    if reserved := [name for name in env if name.startswith("AIP_")]:
        raise ValueError(f"should not contain {reserved[0]}, which Vertex AI sets itself")
    timeout = env.get(TIMEOUT_VARIABLE, "1")
    if not timeout.isascii() or not timeout.isdigit() or not 1 <= int(timeout) <= MAX_TIMEOUT_S:
        raise ValueError(f"{TIMEOUT_VARIABLE} should be seconds from 1 to {MAX_TIMEOUT_S}")
    return env


TIMEOUT_VARIABLE, MAX_TIMEOUT_S = "RESPONSE_TIMEOUT_S", 3600
"""The container's variable for the time for a response, and its maximum: that of dedicated endpoints."""
PROJECT = r"[a-z][a-z0-9-]{4,28}[a-z0-9]|[0-9]+"
NAME = "lowercase letters, digits and hyphens, starting with a letter"
Account = Annotated[str, _matching(r"[^@\s]+@[^@\s]+|", "an e-mail address")]
Route = Annotated[str, _matching("/.*", "a path that starts with /")]
Replica = Annotated[int, Field(ge=1, le=1000)]
Environment = Annotated[dict[str, str], AfterValidator(_check_environment)]


class Settings(BaseModel):
    """The settings of every command. The docstrings of the fields are the texts of --help."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )

    sources: Model = Model(path=MODELS / DEFAULT, name=DEFAULT)
    """the model that is deployed; not a setting of a file"""
    origins: Mapping[str, str] = Field(default_factory=dict)
    """where project and region are set; not a setting of a file"""

    project: Annotated[
        str, _matching(PROJECT, "a project ID: 6 to 30 lowercase letters, digits and hyphens")
    ] = ""
    """project ID"""
    region: Annotated[str, _matching("[a-z]+-[a-z]+[0-9]+", "a region such as us-central1")] = (
        "us-central1"
    )
    """region of the endpoint, the model and the images"""
    name: Annotated[str, _matching("[a-z][a-z0-9-]{0,61}[a-z0-9]", NAME)] = DEFAULT
    """name of the model, the endpoint and the image"""
    repository: Annotated[str, _matching("[a-z]([a-z0-9-]{0,61}[a-z0-9])?", NAME)] = "models"
    """repository in Artifact Registry"""
    machine_type: Annotated[
        str, _matching("[a-z0-9]+-[a-z0-9-]+", "a machine type such as e2-standard-2")
    ] = "e2-standard-2"
    """machine type of each replica"""
    min_replicas: Replica = 1
    """minimum number of replicas; these run, and cost, all the time"""
    max_replicas: Replica = 2
    """maximum number of replicas"""
    cpu_percent: Annotated[int, Field(ge=1, le=100)] = 60
    """CPU utilization above which replicas are added (of the accelerator, if there is one)"""
    accelerator_type: Annotated[
        str, _matching("([A-Z0-9]+_)+[A-Z0-9]+|", "an accelerator such as NVIDIA_L4")
    ] = ""
    """accelerator of each replica, such as NVIDIA_TESLA_T4"""
    accelerator_count: Annotated[int, Field(ge=0, le=16)] = 0
    """number of accelerators of each replica"""
    service_account: Account = ""
    """service account of the container; empty: Vertex AI's own"""
    dedicated: bool = False
    """create a dedicated endpoint: requests of 10 MB instead of 1.5 MB, up to an hour instead of 60 s"""
    image: str = ""
    """image in Artifact Registry; empty: the image of the current sources"""
    builder: Literal["cloud", "local"] = "cloud"
    """where images are built: cloud (Cloud Build) or local (this machine's Docker)"""
    build_service_account: Account = ""
    """service account of Cloud Build; empty: the project's default"""
    artifact_uri: Annotated[str, _matching("gs://.+|", "gs://BUCKET/FOLDER")] = ""
    """gs:// folder with the weights or a model.mar; empty: the model in the image"""
    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    """port of the container"""
    health_route: Route = "/ping"
    """health route of the container"""
    predict_route: Route = f"/predictions/{DEFAULT}"
    """prediction route of the container"""
    shared_memory_mb: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """shared memory of the container; 0: Vertex AI's default"""
    wait_minutes: Annotated[int, Field(ge=1, le=600)] = 60
    """minutes to wait for an operation; afterwards it continues at Google"""
    env: Environment = Field(default_factory=dict)
    """environment variables of the container: the table [env] in deploy.toml"""
    api_endpoint: str = ""
    """http://host:port of the emulator; empty: Google"""
    registry: str = ""
    """registry host; empty: REGION-docker.pkg.dev"""

    @property
    def place(self) -> Place:
        """The project and the region."""
        return Place(self.project, self.region)

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
        return Machine(self.machine_type, accelerator, count, self.service_account)

    @property
    def replicas(self) -> Replicas:
        """The number of replicas. A maximum below the minimum counts as the minimum."""
        maximum = max(self.min_replicas, self.max_replicas)
        return Replicas(self.min_replicas, maximum, self.cpu_percent)

    @property
    def response_timeout_s(self) -> int | None:
        """The time for a response that [env] sets for the container; None: the container's default."""
        text = self.env.get(TIMEOUT_VARIABLE)
        return int(text) if text else None

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
NAMED_BY_MODEL = {"name": "the name of the model", "predict_route": "/predictions/NAME"}
"""Settings whose default is a property of the model, and its description."""


def load(
    arguments: Mapping[str, Any],
    environment: Mapping[str, str] = os.environ,
    file: Path = FILE,
    *,
    needs_model: bool = True,
) -> Settings:
    """Return the settings; `arguments` are options by name, of which None and other options are ignored.

    The option or the variable MODEL selects the model; a command without one sets `needs_model` to False.

    Raises:
        UserError: a setting is unknown or invalid; the message says where it is set and what was expected.

    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}

    def add(layer: Mapping[str, Any], source: str) -> None:
        """Override the values so far; keep where the project and region are set."""
        values.update(layer)
        origins.update({name: source for name in Place._fields if name in layer})

    saved = places.load_defaults(environment.get("DEPLOY_API_ENDPOINT", ""))
    add(_validate(saved, str(places.FILE)), "the last command")
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
        values["env"] = general.get("env", {}) | special.get("env", {})
    else:
        add(_read_settings(file, required=file != FILE), str(file))
    for name in set(FIELDS) - {"env"}:
        if environment.get(variable := f"DEPLOY_{name.upper()}"):
            add(_validate({name: environment[variable]}, variable, strict=False), variable)
    for name, value in arguments.items():
        if name in FIELDS and value is not None:
            option = f"--{name.replace('_', '-')}"
            add(_validate({name: value}, option), option)
    _add_ambient_project(values, origins, environment)
    values["origins"] = origins
    settings = Settings(**values)
    if not settings.project:
        raise UserError(
            "no project is set",
            'make deploy-endpoint PROJECT=my-project, or set project = "my-project" in deploy.toml, '
            "or the variable GOOGLE_CLOUD_PROJECT",
        )
    _check_combinations(settings, file, max_replicas_is_set="max_replicas" in values)
    return settings


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
    elif values["project"] != project:
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
    group = parser.add_argument_group("settings")
    for name, field in FIELDS.items():
        if name not in names or name == "env":
            continue
        options: Any = {"type": str, "metavar": name.rpartition("_")[2].upper()}
        default = NAMED_BY_MODEL.get(name, str(field.default))
        if field.annotation is bool:
            options = {"action": argparse.BooleanOptionalAction, "default": None}
            default = "yes" if field.default else "no"
        elif field.annotation is int:
            options["type"] = int
        text = f"{field.description} (default: {default})" if default else str(field.description)
        group.add_argument(f"--{name.replace('_', '-')}", help=text.replace("%", "%%"), **options)


def _validate(values: dict[str, Any], source: str, *, strict: bool = True) -> dict[str, Any]:
    """Return the values as their types; raise UserError for the first invalid one, which names its source."""
    try:
        checked = Settings.model_validate(values, strict=strict)
    except ValidationError as invalid:
        error = invalid.errors()[0]
    else:
        return {name: getattr(checked, name) for name in values}
    name, value = ".".join(map(str, error["loc"])), error["input"]
    if error["type"] == "extra_forbidden" or name in INTERNAL:
        unknown = f"{source}: unknown setting {name!r}"
        raise UserError(unknown, f"the settings are: {', '.join(FIELDS)}")
    setting = name if isinstance(value, dict) else f"{name} = {value!r}"
    expected = error["msg"].removeprefix("Value error, ").partition(", unable to")[0]
    expected = expected.replace("Input should", "should")
    raise UserError(f"{source}: {setting} {expected}", "fix this setting")


def _check_combinations(settings: Settings, file: Path, *, max_replicas_is_set: bool) -> None:
    """Raise UserError for settings that contradict each other."""
    s = settings
    error = ""
    if s.max_replicas < s.min_replicas and max_replicas_is_set:
        error = f"max_replicas = {s.max_replicas} is less than min_replicas = {s.min_replicas}"
    elif s.accelerator_count and not s.accelerator_type:
        error = f"accelerator_count = {s.accelerator_count} without an accelerator_type"
    elif s.accelerator_type and not s.accelerator_count:
        error = f"accelerator_type = {s.accelerator_type!r} without an accelerator_count"
    if error:
        hint = "fix it there, or in the option or variable that overrides it"
        raise UserError(f"{file}: {error}", hint)


def model_settings(model: Model) -> Path:
    """Return the path of the model's own deploy.toml. Of an archive it is the one that was copied beside it."""
    return (model.build if model.is_archive else model.path) / FILE


def _find_sources(value: str | None) -> Model:
    try:
        return find_model(value)
    except ModelFolderError as error:
        raise UserError(str(error), "make check MODEL=… checks a model") from None


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
        content = tomllib.loads(path.read_text())
    except OSError as error:
        hint = "name a readable file, or omit --settings"
        raise UserError(f"{path} cannot be read: {error.strerror}", hint) from None
    except ValueError as error:
        raise UserError(f"{path} is not TOML: {error}", "fix that line") from None
    return _validate(content, str(path))
