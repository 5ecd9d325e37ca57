"""A request to try a function with, as curl takes it."""

import json
from pathlib import Path

from functions.catalogue import Function

SAMPLE = Path("build/request.json")
JSON_TYPE = "-H 'Content-Type: application/json'"


def example(function: Function) -> str:
    """Return curl's words for a request; that of a picture is written to build/request.json."""
    if function.sample:
        return f"{JSON_TYPE} -d '{function.sample}'"
    golden = function.made / "golden.json"
    if golden.is_file():
        instance = json.loads(golden.read_text())["instance"]
        SAMPLE.parent.mkdir(exist_ok=True)
        SAMPLE.write_text(json.dumps({"instances": [instance]}))
    return f"{JSON_TYPE} -d @{SAMPLE}"
