"""The types of settings: what a value must look like, and how an error describes it."""

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from deploy.machines import load_table

RESOURCE_ID = "[a-z]([a-z0-9-]{0,61}[a-z0-9])?"
PROJECT = "[a-z][a-z0-9-]{4,28}[a-z0-9]|[0-9]{6,20}"
BIGQUERY = "[a-z][a-z0-9-]{4,28}[a-z0-9]"
"""A project in a bq:// URI."""
HOST = r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?"
BUCKET = "[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"

NETWORK = rf"projects/({PROJECT})/global/networks/{RESOURCE_ID}"
MIN_SHARED_CLIENTS, MAX_SHARED_CLIENTS = 2, 48
MAX_LABELS = 60
"""Google's maximum is 64, and `deploy` adds some."""
OWN_LABELS = ("created-by", "goal", "served", "rolled-back-to", "image-digest", "git-commit")


class Group(BaseModel):
    """A group of settings. The docstrings of its fields are the texts of --help."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )


def suggest(value: str, known: Iterable[str]) -> str:
    """Return "; did you mean …?" with the most similar known value; "" if none is similar."""
    close = difflib.get_close_matches(value, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def matching(pattern: str, expected: str) -> AfterValidator:
    """Return a validator of a text that matches a pattern as a whole."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f"should be {expected}")
        return text

    return AfterValidator(check)


def known(list_values: Callable[[], Iterable[str]], expected: str) -> AfterValidator:
    """Return a validator of a text that is empty or a value of machines.toml."""

    def check(text: str) -> str:
        values = set(list_values())
        if text and text not in values:
            raise ValueError(f"should be {expected}{suggest(text, values)}")
        return text

    return AfterValidator(check)


def check_route(text: str) -> str:
    """Check the path of a route, by the same rule as the container."""
    if not re.fullmatch(r"/[A-Za-z0-9._~:@!*+,=/-]*", text):
        raise ValueError("should be a path that starts with /, of letters, digits and ._~:@!*+,=/-")
    if re.search(r"//|/\.{1,2}(/|$)", text):
        raise ValueError("should be a path without //, /. and /..")
    return text


def check_shared_clients(number: int) -> int:
    """Check how many pods share a GPU, by GKE's limits."""
    if number and not MIN_SHARED_CLIENTS <= number <= MAX_SHARED_CLIENTS:
        raise ValueError(f"should be 0, or {MIN_SHARED_CLIENTS} to {MAX_SHARED_CLIENTS}")
    return number


def check_labels(labels: dict[str, str]) -> dict[str, str]:
    """Check labels by Google's rules: letters of any script, but none in upper case."""
    if len(labels) > MAX_LABELS:
        raise ValueError(f"should contain at most {MAX_LABELS} labels")
    for key, value in labels.items():
        if not re.fullmatch(r"[^\W\d_][\w-]{0,62}", key) or key != key.lower():
            raise ValueError(
                f"should not contain the key {key!r}: expected lowercase letters, digits, _ and -, "
                "a letter first, 63 at most"
            )
        if not re.fullmatch(r"[\w-]{0,63}", value) or value != value.lower():
            raise ValueError(
                f"should not contain {key} = {value!r}: expected lowercase letters, digits, _ and -, 63 at most"
            )
        if key in OWN_LABELS:
            raise ValueError(f"should not contain {key}, which deploy sets itself")
    return labels


def split_text(value: Any) -> Any:
    """Split the text of an option or a variable at its commas."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


Account = Annotated[
    str,
    matching(
        r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?@([a-z0-9-]+\.)+gserviceaccount\.com|",
        "a service account such as NAME@PROJECT.iam.gserviceaccount.com",
    ),
]
Route = Annotated[str, AfterValidator(check_route)]
Region = Annotated[
    str, known(lambda: load_table().regions, "a region of Vertex AI such as us-central1")
]
MachineType = Annotated[
    str,
    known(
        lambda: load_table().machine_types,
        "a machine type in deploy/machines.toml such as e2-standard-2",
    ),
]
AcceleratorType = Annotated[
    str,
    known(
        lambda: load_table().accelerator_types,
        "an accelerator in deploy/machines.toml such as NVIDIA_L4",
    ),
]
PartitionSize = Annotated[
    str, matching(r"[1-7]g\.[0-9]{1,3}gb|", "a size of a part of a GPU such as 1g.10gb")
]
SharedClients = Annotated[int, AfterValidator(check_shared_clients)]
Percent = Annotated[int, Field(ge=1, le=100)]
Labels = Annotated[dict[str, str], AfterValidator(check_labels)]
Projects = Annotated[
    list[Annotated[str, matching(PROJECT, "a project ID")]], BeforeValidator(split_text)
]
