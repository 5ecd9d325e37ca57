"""The types of settings: what a value must look like, and how an error describes it."""

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from deploy.machines import load_table

RESOURCE_ID = "[a-z]([a-z0-9-]{0,61}[a-z0-9])?"
PROJECT = "[a-z][a-z0-9-]{4,28}[a-z0-9]|[0-9]{6,20}"
HOST = r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?"
BUCKET = "[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"


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
Percent = Annotated[int, Field(ge=1, le=100)]
