"""What is deployed, where, and on what: deploy.toml, the environment, the command line.

An option beats a variable (DEPLOY_NAME for `name`), which beats deploy.toml, which beats the project
and region that were used last, which beat the defaults below.
"""

import argparse
import os
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from deploy.errors import UserError
from deploy.plan import Machine, Replicas

FILE = Path("deploy.toml")
LAST = Path("build/deploy/last.toml")
"""The project and region used last, so that nobody types them twice."""
PROJECT_VARIABLES = ("DEPLOY_PROJECT", "GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT")


def _matching(pattern: str, expected: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"should be {expected}")
        return text

    return AfterValidator(check)


def _without_aip(env: dict[str, str]) -> dict[str, str]:
    if taken := [name for name in env if name.startswith("AIP_")]:
        raise ValueError(f"should not name {taken[0]}, which Vertex AI sets itself")
    return env


PROJECT = r"[a-z][a-z0-9-]{4,28}[a-z0-9]|[0-9]+"
NAME = "lowercase letters, digits and hyphens, a letter first"
Account = Annotated[str, _matching(r"[^@\s]+@[^@\s]+|", "an e-mail address")]
Route = Annotated[str, _matching("/.*", "a path that begins with /")]
Replica = Annotated[int, Field(ge=1, le=1000)]
Environment = Annotated[dict[str, str], AfterValidator(_without_aip)]


class Settings(BaseModel):
    """Everything that a command needs to know. The texts below are what --help prints."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )

    project: Annotated[
        str, _matching(PROJECT, "a project's ID: 6 to 30 lowercase letters, digits and hyphens")
    ] = ""
    """the project's ID"""
    region: Annotated[str, _matching("[a-z]+-[a-z]+[0-9]+", "a region such as us-central1")] = (
        "us-central1"
    )
    """of the endpoint, the model and the images"""
    name: Annotated[str, _matching("[a-z][a-z0-9-]{0,61}[a-z0-9]", NAME)] = "digits"
    """of the model, the endpoint and the image"""
    repository: Annotated[str, _matching("[a-z]([a-z0-9-]{0,61}[a-z0-9])?", NAME)] = "models"
    """in Artifact Registry"""
    machine_type: Annotated[
        str, _matching("[a-z0-9]+-[a-z0-9-]+", "a machine type such as e2-standard-2")
    ] = "e2-standard-2"
    """what a replica runs on"""
    min_replicas: Replica = 1
    """how many run, and cost, all the time"""
    max_replicas: Replica = 2
    """how many run at most"""
    cpu_percent: Annotated[int, Field(ge=1, le=100)] = 60
    """replicas are added above this use of the processor (of the accelerator, where there is one)"""
    accelerator_type: Annotated[
        str, _matching("([A-Z0-9]+_)+[A-Z0-9]+|", "an accelerator such as NVIDIA_L4")
    ] = ""
    """such as NVIDIA_TESLA_T4"""
    accelerator_count: Annotated[int, Field(ge=0, le=16)] = 0
    """of each replica"""
    service_account: Account = ""
    """what the container runs as; empty: Vertex AI's own"""
    dedicated: bool = False
    """an endpoint with a domain of its own: 10 MB instead of 1.5, up to an hour instead of 60 s"""
    image: str = ""
    """an image in Artifact Registry; empty: the one that is built here"""
    builder: Literal["cloud", "local"] = "cloud"
    """what builds it: cloud (Cloud Build) or local (this machine's Docker)"""
    build_service_account: Account = ""
    """e-mail of what Cloud Build runs as; empty: the project's default"""
    artifact_uri: Annotated[str, _matching("gs://.+|", "gs://BUCKET/FOLDER")] = ""
    """gs:// folder with the weights or a model.mar; empty: what is in the image"""
    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    """that the container listens on"""
    health_route: Route = "/ping"
    """of the container"""
    predict_route: Route = "/predictions/digits"
    """of the container"""
    shared_memory_mb: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """of the container; 0: what Vertex AI gives"""
    wait_minutes: Annotated[int, Field(ge=1, le=600)] = 60
    """how long a command watches an operation; Google goes on with it afterwards"""
    env: Environment = Field(default_factory=dict)
    """the container's environment: a table [env] of deploy.toml"""
    api_endpoint: str = ""
    """http://host:port of a stand-in; empty: Google"""
    registry: str = ""
    """host of the images; empty: REGION-docker.pkg.dev"""

    @property
    def machine(self) -> Machine:
        """What a replica runs on."""
        return Machine(
            self.machine_type, self.accelerator_type, self.accelerator_count, self.service_account
        )

    @property
    def replicas(self) -> Replicas:
        """How many of them."""
        return Replicas(
            self.min_replicas, max(self.min_replicas, self.max_replicas), self.cpu_percent
        )

    @property
    def location(self) -> str:
        """The resource that holds everything."""
        return f"projects/{self.project}/locations/{self.region}"

    @property
    def model(self) -> str:
        """The model's name."""
        return f"{self.location}/models/{self.name}"

    @property
    def endpoint(self) -> str:
        """The endpoint's name."""
        return f"{self.location}/endpoints/{self.name}"

    @property
    def image_name(self) -> str:
        """Where images go, without tag or digest."""
        return f"{self.registry or f'{self.region}-docker.pkg.dev'}/{self.project}/{self.repository}/{self.name}"


FIELDS = Settings.model_fields


def read(
    arguments: Mapping[str, Any], environment: Mapping[str, str] = os.environ, file: Path = FILE
) -> Settings:
    """Put the settings together.

    Of `arguments`, option by name, those are ignored that are None or no settings.

    Raises:
        Stop: a setting is unknown or not as it must be; it says where it stands and what is expected.

    """
    last = _last(environment.get("DEPLOY_API_ENDPOINT", ""))
    found = _valid(_file(last, needed=False), str(last))
    found |= _valid(_file(file, needed=file != FILE), str(file))
    for name in set(FIELDS) - {"env"}:
        variables = PROJECT_VARIABLES if name == "project" else (f"DEPLOY_{name.upper()}",)
        if given := next(filter(environment.get, variables), None):
            found |= _valid({name: environment[given]}, given, strict=False)
    for name, value in arguments.items():
        if name in FIELDS and value is not None:
            found |= _valid({name: value}, f"--{name.replace('_', '-')}")
    settings = Settings(**found)
    if not settings.project:
        raise UserError(
            "no project is named",
            'make deploy-endpoint PROJECT=my-project, or project = "my-project" in deploy.toml, '
            "or the variable GOOGLE_CLOUD_PROJECT",
        )
    _check_together(settings, file, most_given="max_replicas" in found)
    return settings


def remember(settings: Settings) -> None:
    """Write the project and region down for the next command."""
    text = f'project = "{settings.project}"\nregion = "{settings.region}"\n'
    last = _last(settings.api_endpoint)
    if not last.is_file() or last.read_text() != text:
        last.parent.mkdir(parents=True, exist_ok=True)
        last.write_text(text)


def add_options(parser: argparse.ArgumentParser, names: Collection[str] = FIELDS.keys()) -> None:
    """Add --dry-run, --settings, and an option for each of these settings but the table [env]."""
    parser.add_argument(
        "--dry-run", action="store_true", help="print the calls that would be made, change nothing"
    )
    parser.add_argument(
        "--settings", type=Path, default=FILE, metavar="FILE", help="(default: deploy.toml)"
    )
    group = parser.add_argument_group("settings")
    for name, field in FIELDS.items():
        if name not in names or name == "env":
            continue
        kind: Any = {"type": str, "metavar": name.rpartition("_")[2].upper()}
        default = str(field.default)
        if field.annotation is bool:
            kind = {"action": argparse.BooleanOptionalAction, "default": None}
            default = "yes" if field.default else "no"
        elif field.annotation is int:
            kind["type"] = int
        shown = f"{field.description} (default: {default})" if default else field.description
        group.add_argument(
            f"--{name.replace('_', '-')}", help=str(shown).replace("%", "%%"), **kind
        )


def _valid(values: dict[str, Any], where: str, *, strict: bool = True) -> dict[str, Any]:
    """Return the values of settings as their types; raise Stop for the first that is wrong."""
    try:
        checked = Settings.model_validate(values, strict=strict)
    except ValidationError as error:
        wrong = error.errors()[0]
    else:
        return {name: getattr(checked, name) for name in values}
    name, value = ".".join(map(str, wrong["loc"])), wrong["input"]
    if wrong["type"] == "extra_forbidden":
        raise UserError(
            f"{where}: there is no setting {name!r}", f"the settings are: {', '.join(FIELDS)}"
        )
    shown = name if isinstance(value, dict) else f"{name} = {value!r}"
    expected = wrong["msg"].removeprefix("Value error, ").partition(", unable to")[0]
    raise UserError(
        f"{where}: {shown} {expected.replace('Input should', 'should')}", "fix this setting"
    )


def _check_together(settings: Settings, file: Path, *, most_given: bool) -> None:
    """Raise Stop for settings that contradict each other."""
    s = settings
    wrong = ""
    if s.max_replicas < s.min_replicas and most_given:
        wrong = f"max_replicas = {s.max_replicas} is less than min_replicas = {s.min_replicas}"
    elif s.accelerator_count and not s.accelerator_type:
        wrong = f"accelerator_count = {s.accelerator_count} without an accelerator_type"
    elif s.accelerator_type and not s.accelerator_count:
        wrong = f"accelerator_type = {s.accelerator_type!r} without an accelerator_count"
    if wrong:
        raise UserError(
            f"{file}: {wrong}", "mend it, or the option or variable that says otherwise"
        )


def _last(api_endpoint: str) -> Path:
    """Return where the project and region used last stand; a rehearsal's are not Google's."""
    return LAST.with_name("rehearsed.toml") if api_endpoint else LAST


def _file(path: Path, *, needed: bool) -> dict[str, Any]:
    if not needed and not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}",
            "name a file that can, or leave --settings out",
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not TOML: {error}", "fix that line") from None
