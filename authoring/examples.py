"""Read the file that EXAMPLE= names, requests in any usual shape or a picture, and write requests.json."""

import base64
import copy
import json
from pathlib import Path
from typing import Any

from authoring.errors import NewModelError

PICTURES = (b"\x89PNG", b"\xff\xd8")
"""How a PNG and a JPEG begin."""


def read_example(path: Path | None) -> list[dict[str, Any]]:
    """Return the requests of a file as in requests.json, two or more; none without a file.

    The file has a body, {"instances": [...], "parameters"?}, requests as in requests.json, one instance, or a picture.
    """
    if path is None:
        return []
    try:
        content = path.read_bytes()
        is_picture = content.startswith(PICTURES)
        value = {"b64": base64.b64encode(content).decode()} if is_picture else json.loads(content)
    except FileNotFoundError:
        raise NewModelError(f"EXAMPLE={path}: the file does not exist") from None
    except (OSError, ValueError) as error:
        raise NewModelError(f"EXAMPLE={path}: expected JSON, a PNG or a JPEG: {error}") from None
    match value:
        case {"instances": [_, *_] as instances}:
            shared = {"parameters": value["parameters"]} if value.get("parameters") else {}
            items = [{"instance": instance, **shared} for instance in instances]
        case [{"instance": _}, *_]:
            items = [
                {key: item[key] for key in ("instance", "parameters") if key in item}
                for item in value
            ]
        case {"instance": _}:
            items = [{key: value[key] for key in ("instance", "parameters") if key in value}]
        case _:
            items = [{"instance": value}]
    return [*items, *copy.deepcopy(items)] if len(items) == 1 else items


def write_requests(folder: Path, items: list[dict[str, Any]]) -> None:
    """Write requests.json, a line for each request."""
    lines = ",\n".join(json.dumps(item, ensure_ascii=False) for item in items)
    (folder / "requests.json").write_text(f"[\n{lines}\n]\n", "utf-8")
