"""A request to try a function with."""

import json
from pathlib import Path

from functions.registry import Function

REQUEST = Path("build/request.json")


def curl_options(function: Function) -> str:
    """Return curl's options for a sample request; the golden instance is written to build/request.json."""
    golden = function.model_folder / "golden.json"
    if not function.sample and golden.is_file():
        instance = json.loads(golden.read_text())["instance"]
        REQUEST.parent.mkdir(exist_ok=True)
        REQUEST.write_text(json.dumps({"instances": [instance]}))
    return f"-H 'Content-Type: application/json' -d {function.sample or f'@{REQUEST}'}"
