"""Read a model's requests.json: requests, and the predictions that are expected for them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

FILE_NAME = "requests.json"
DEFAULT_TOLERANCE = 1e-3
"""The relative tolerance of floats, which differ between CPUs."""
MIN_EXAMPLES = 2
"""Two requests in one batch show whether the model keeps them apart."""
KEYS = ("instance", "parameters", "expected", "tolerance")


class RequestsFileError(Exception):
    """The requests.json of a model is missing or invalid."""


@dataclass(frozen=True)
class Example:
    """A request with one instance, and the prediction that is expected for it."""

    instance: Any
    parameters: dict[str, Any] = field(default_factory=dict)
    expected: Any = None
    tolerance: float = DEFAULT_TOLERANCE
    name: str = "the request"
    """Where the example is, for messages: "requests.json[0]"."""

    @property
    def has_check(self) -> bool:
        """Whether something is compared, and not only that a prediction is returned."""
        return self.expected is not None and self.expected != {}

    @property
    def body(self) -> dict[str, Any]:
        """The body of a request with this instance."""
        parameters = {"parameters": self.parameters} if self.parameters else {}
        return {"instances": [self.instance], **parameters}


def read_examples(folder: Path) -> list[Example]:
    """Return the examples of a model's folder; raise RequestsFileError."""
    path = folder / FILE_NAME
    try:
        document = json.loads(path.read_bytes(), parse_constant=_reject_constant)
    except FileNotFoundError:
        raise RequestsFileError(
            f'{path} does not exist; expected [{{"instance": ..., "expected": ...}}, ...]'
        ) from None
    except (OSError, ValueError) as error:
        raise RequestsFileError(f"{path}: {error}") from None
    if not isinstance(document, list):
        raise RequestsFileError(
            f'{path}: expected an array, [{{"instance": ..., "expected": ...}}, ...]'
        )
    if len(document) < MIN_EXAMPLES:
        raise RequestsFileError(
            f"{path}: expected {MIN_EXAMPLES} requests or more, which are also checked in one "
            f"batch; got {len(document)}"
        )
    return [_parse(path, index, item) for index, item in enumerate(document)]


def _parse(path: Path, index: int, item: Any) -> Example:
    where = f"{path}: [{index}]"
    if not isinstance(item, dict) or "instance" not in item:
        raise RequestsFileError(f'{where}: expected an object {{"instance": ...}}')
    if unknown := [key for key in item if key not in KEYS]:
        raise RequestsFileError(f"{where}: unknown key {unknown[0]!r}; expected {', '.join(KEYS)}")
    parameters, tolerance = item.get("parameters"), item.get("tolerance", DEFAULT_TOLERANCE)
    if parameters is not None and not isinstance(parameters, dict):
        raise RequestsFileError(f"{where}: parameters: expected an object")
    if type(tolerance) not in (int, float) or not 0 <= tolerance < 1:
        raise RequestsFileError(f"{where}: tolerance: expected a number from 0 to 1")
    return Example(
        item["instance"], parameters or {}, item.get("expected"), tolerance, f"{FILE_NAME}[{index}]"
    )


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")
