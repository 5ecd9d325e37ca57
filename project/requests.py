"""The bodies of a model's predict requests, from requests.json of its archive."""

import json
from typing import Any

from project.model_folder import Model


def read_bodies(model: Model) -> list[dict[str, Any]]:
    """Return the body of each request, with one instance; raise OSError if the archive has none."""
    return [
        {
            "instances": [each["instance"]],
            **({"parameters": each["parameters"]} if "parameters" in each else {}),
        }
        for each in json.loads(model.requests.read_bytes())
    ]


def read_expected(model: Model) -> list[Any]:
    """Return what each request expects of its prediction, None without an expectation."""
    return [each.get("expected") for each in json.loads(model.requests.read_bytes())]


def replace_picture(value: Any, picture: str) -> Any:
    """Return a copy of an instance in which every "b64" is this base64 text."""
    if isinstance(value, dict):
        return {k: picture if k == "b64" else replace_picture(v, picture) for k, v in value.items()}
    return [replace_picture(each, picture) for each in value] if isinstance(value, list) else value
