"""A handler as most users write it: one request at a time, with the task and backend of our archive.

Only the servers differ. The archive also has benchmarks/bare.py.
"""

import json
from pathlib import Path
from typing import Any


class StockHandler:
    """Predicts the instances of one request."""

    def initialize(self, context: Any) -> None:
        from benchmarks import bare  # noqa: PLC0415  from the archive
        from handler.json_output import encode_prediction  # noqa: PLC0415  from the archive

        self._predict, self._encode = bare.predict, encode_prediction
        self._task = bare.load(Path(context.system_properties["model_dir"]))

    def handle(self, data: list[dict[str, Any]], _context: Any) -> list[str]:
        bodies = [row["body"] for row in data]
        parsed = [body if isinstance(body, dict) else json.loads(body) for body in bodies]
        responses = self._predict(self._task, parsed)
        return [self._encode({"predictions": predictions}) for predictions in responses]
