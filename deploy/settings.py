"""What is deployed, where, and on what: deploy.toml, the environment, the command line.

An argument beats the environment (DEPLOY_NAME for `name`), which beats deploy.toml, which beats the
project and region that were used last, which beat the defaults below.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from deploy.errors import Stop
from deploy.plan import Machine, Replicas

FILE = Path("deploy.toml")
LAST = Path("build/deploy/last.toml")
"""The project and region used last, so that nobody types them twice."""
PROJECT_VARIABLES = ("DEPLOY_PROJECT", "GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT")


@dataclass(frozen=True)
class Settings:
    """Everything that a command needs to know. The docstrings are what --help prints."""

    project: str = ""
    """the project's ID"""
    region: str = "us-central1"
    """of the endpoint, the model and the images"""
    name: str = "digits"
    """of the model, the endpoint and the image"""
    repository: str = "models"
    """in Artifact Registry"""
    machine_type: str = "e2-standard-2"
    """what a replica runs on"""
    min_replicas: int = 1
    """how many run, and cost, all the time"""
    max_replicas: int = 2
    """how many run at most"""
    cpu_percent: int = 60
    """replicas are added above this use of the processor (of the accelerator, where there is one)"""
    accelerator_type: str = ""
    """such as NVIDIA_TESLA_T4"""
    accelerator_count: int = 0
    """of each replica"""
    service_account: str = ""
    """what the container runs as; empty: Vertex AI's own"""
    dedicated: bool = False
    """an endpoint with a domain of its own: 10 MB instead of 1.5, up to an hour instead of 60 s"""
    image: str = ""
    """an image in Artifact Registry; empty: the one that is built here"""
    builder: str = "cloud"
    """what builds it: cloud (Cloud Build) or local (this machine's Docker)"""
    build_service_account: str = ""
    """e-mail of what Cloud Build runs as; empty: the project's default"""
    artifact_uri: str = ""
    """gs:// folder with the weights or a model.mar; empty: what is in the image"""
    port: int = 8080
    """that the container listens on"""
    health_route: str = "/ping"
    """of the container"""
    predict_route: str = "/predictions/digits"
    """of the container"""
    shared_memory_mb: int = 0
    """of the container; 0: what Vertex AI gives"""
    wait_minutes: int = 60
    """how long a command watches an operation; Google goes on with it afterwards"""
    env: Mapping[str, str] = field(default_factory=dict)
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


TYPES = get_type_hints(Settings)


def read(
    arguments: Mapping[str, Any], environment: Mapping[str, str] = os.environ, file: Path = FILE
) -> Settings:
    """Put the settings together; raise Stop where one is not as it must be, and say where it stands."""
    found: dict[str, Any] = {}
    last = _last(environment.get("DEPLOY_API_ENDPOINT", ""))
    for path, needed in ((last, False), (file, file != FILE)):
        for name, value in _file(path, needed).items():
            found[name] = _checked(name, value, str(path))
    for name in TYPES:
        for variable in PROJECT_VARIABLES if name == "project" else (f"DEPLOY_{name.upper()}",):
            if environment.get(variable) and name != "env":
                found[name] = _checked(
                    name, _typed(name, environment[variable], variable), variable
                )
                break
    for name, value in arguments.items():
        if name in TYPES and value is not None:
            found[name] = _checked(name, value, f"--{name.replace('_', '-')}")
    settings = Settings(**found)
    if not settings.project:
        raise Stop(
            "no project is named",
            'make deploy-endpoint PROJECT=my-project, or project = "my-project" in deploy.toml, '
            "or the variable GOOGLE_CLOUD_PROJECT",
        )
    _together(settings, file, "max_replicas" in found)
    return settings


def remember(settings: Settings) -> None:
    """Write the project and region down for the next command."""
    text = f'project = "{settings.project}"\nregion = "{settings.region}"\n'
    last = _last(settings.api_endpoint)
    if not last.is_file() or last.read_text() != text:
        last.parent.mkdir(parents=True, exist_ok=True)
        last.write_text(text)


def explained() -> dict[str, tuple[Any, str]]:
    """Return every setting with its default and what it is."""
    source = Path(__file__).read_text()
    texts = dict(re.findall(r'^    (\w+): [^\n]+\n    """([^"]+)"""', source, re.MULTILINE))
    return {
        each.name: ({} if each.name == "env" else each.default, texts[each.name])
        for each in fields(Settings)
    }


PATTERNS = {
    "project": (
        r"[a-z][a-z0-9-]{4,28}[a-z0-9]|[0-9]+",
        "a project's ID: 6 to 30 lowercase letters, digits and hyphens",
    ),
    "region": (r"[a-z]+-[a-z]+[0-9]+", "a region such as us-central1"),
    "name": (
        r"[a-z][a-z0-9-]{0,61}[a-z0-9]",
        "lowercase letters, digits and hyphens, a letter first",
    ),
    "repository": (
        r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?",
        "lowercase letters, digits and hyphens, a letter first",
    ),
    "machine_type": (r"[a-z0-9]+-[a-z0-9-]+", "a machine type such as e2-standard-2"),
    "accelerator_type": (r"([A-Z0-9]+_)+[A-Z0-9]+|", "an accelerator such as NVIDIA_L4"),
    "builder": ("cloud|local", "cloud or local"),
    "health_route": ("/.*", "a path that begins with /"),
    "predict_route": ("/.*", "a path that begins with /"),
    "artifact_uri": ("gs://.+|", "gs://BUCKET/FOLDER"),
    "service_account": (r"[^@\s]+@[^@\s]+|", "an e-mail address"),
    "build_service_account": (r"[^@\s]+@[^@\s]+|", "an e-mail address"),
}
RANGES = {
    "min_replicas": (1, 1000),
    "max_replicas": (1, 1000),
    "cpu_percent": (1, 100),
    "accelerator_count": (0, 16),
    "port": (1, 65535),
    "shared_memory_mb": (0, 1_000_000),
    "wait_minutes": (1, 600),
}


def _last(api_endpoint: str) -> Path:
    """Return where the project and region used last stand; a rehearsal's are not Google's."""
    return LAST.with_name("rehearsed.toml") if api_endpoint else LAST


def _together(settings: Settings, file: Path, most_given: bool) -> None:
    """Raise Stop where settings that are good by themselves are not so together."""
    s = settings
    wrong = ""
    if s.max_replicas < s.min_replicas and most_given:
        wrong = f"max_replicas = {s.max_replicas} is less than min_replicas = {s.min_replicas}"
    elif s.accelerator_count and not s.accelerator_type:
        wrong = f"accelerator_count = {s.accelerator_count} without an accelerator_type"
    elif s.accelerator_type and not s.accelerator_count:
        wrong = f"accelerator_type = {s.accelerator_type!r} without an accelerator_count"
    if wrong:
        raise Stop(f"{file}: {wrong}", "mend it, or the option or variable that says otherwise")


def _file(path: Path, needed: bool) -> dict[str, Any]:
    if not path.is_file():
        if needed:
            raise Stop(f"{path} does not exist", "name a file that does, or leave --settings out")
        return {}
    try:
        return tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise Stop(f"{path} is not TOML: {error}", "mend that line") from None


def _typed(name: str, text: str, where: str) -> Any:
    if TYPES[name] is int:
        if not re.fullmatch("-?[0-9]+", text):
            raise Stop(f"{where}: {name} is a whole number, not {text!r}", "mend it")
        return int(text)
    if TYPES[name] is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise Stop(f"{where}: {name} is true or false, not {text!r}", "mend it")
        return text.lower() in ("true", "1")
    return text


def _checked(name: str, value: Any, where: str) -> Any:
    """Return a setting's value; raise Stop with where it stands, what was expected and what was found."""
    if name not in TYPES:
        raise Stop(
            f"{where}: there is no setting {name!r}", f"the settings are: {', '.join(TYPES)}"
        )
    if name == "env":
        if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
            raise Stop(
                f'{where}: [env] is a table of strings, such as ACCESS_LOG = "1"',
                "quote its values",
            )
        if taken := [key for key in value if key.startswith("AIP_")]:
            raise Stop(
                f"{where}: [env] names {taken[0]}, which Vertex AI sets itself", "leave it out"
            )
        return value
    kind = TYPES[name]
    if type(value) is not kind:
        words = {str: "text in quotes", int: "a whole number", bool: "true or false"}
        raise Stop(f"{where}: {name} is {words[kind]}, not {value!r}", "mend it")
    pattern, expected = PATTERNS.get(name, (".*", ""))
    if kind is str and not re.fullmatch(pattern, value):
        raise Stop(f"{where}: {name} = {value!r} is not {expected}", "mend it")
    low, high = RANGES.get(name, (0, 1))
    if kind is int and not low <= value <= high:
        raise Stop(f"{where}: {name} = {value} is not between {low} and {high}", "mend it")
    return value
