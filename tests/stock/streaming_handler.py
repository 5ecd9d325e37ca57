"""The handler of a stock archive that answers JSON and raw bodies, and sends a part of a response before its end."""

import time
from typing import Any

from ts.handler_utils.utils import send_intermediate_predict_response


class Handler:
    """Returns what it gets; "stream" is answered in two parts, "fail" raises."""

    def initialize(self, context: Any) -> None:
        """Load nothing."""

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        """Return the type and the value of each row, which is a dict if there is no envelope."""
        values = [row["body"] if isinstance(row, dict) and "body" in row else row for row in data]
        if "stream" in values:
            ids = {
                index: context.request_ids[index] for index, v in enumerate(values) if v == "stream"
            }
            send_intermediate_predict_response(["first"] * len(data), ids, "ok", 200, context)
            time.sleep(0.5)  # the parts of a response that follow at once may arrive as one
        if "fail" in values:
            raise RuntimeError("the archive failed")
        return [f"{type(value).__name__} {value}" for value in values]
