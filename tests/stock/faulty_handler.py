"""The handler of a stock archive that does what the first row names; LOAD_FAILURE makes it fail while it loads."""

import base64
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ts.utils.util import PredictionException

FAILURE = os.environ.get("LOAD_FAILURE")
if FAILURE == "import":
    import package_of_nobody  # type: ignore[import-not-found]  # noqa: F401


def panic(_: object) -> None:
    """Fail as Rust code does, such as that of tokenizers: by no Exception."""
    raise type("PanicException", (BaseException,), {})(
        "called `Option::unwrap()` on a `None` value"
    )


RESPONSES: dict[str, Callable[[list[Any]], Any]] = {
    "only_first": lambda data: [data[0]],
    "nothing": lambda _: [],
    "ten": lambda _: list(range(10)),
    "a_dict": lambda _: {"a": 1},
    "nan": lambda data: [float("nan")] * len(data),
    "large": lambda data: ["x" * (11 << 20)] * len(data),
    "cut_base64": lambda _: [base64.b64decode("abcde")],
    "not_ascii": lambda _: [base64.b64decode("ä")],
    "not_text": lambda _: [b"\xff".decode()],
    "get": lambda data: [data[0].get("data")],
    "exit": lambda _: sys.exit("no more"),
    "out of memory": lambda _: torch.empty(1 << 60),
    "panic": panic,
    "tensor": lambda data: [{"scores": torch.ones(2)}] * len(data),
    "own JSON": lambda _: [json.dumps({1})],
    "attribute": lambda data: [data[0].missing],
}


class Handler:
    """Answers each row with its repr, unless the first row names another response, or the status of an error."""

    def initialize(self, context: Any) -> None:
        """Keep the context, as handlers of TorchServe do."""
        if FAILURE == "silent":
            logging.disable(logging.CRITICAL)
            logging.getLogger("vertex_stock_handler").disabled = True  # as logging.config does
            logging.root.handlers = []
            raise RuntimeError("not logged")
        if FAILURE == "RuntimeError":
            raise RuntimeError("weights do\nnot fit")
        if FAILURE == "MemoryError":
            raise MemoryError("no room")
        if FAILURE == "exit":
            sys.exit("no licence")
        if FAILURE == "pickle":
            path = Path(context.system_properties["model_dir"]) / "whole.pt"
            torch.save(torch.nn.Linear(1, 1), path)
            torch.load(path)
        self.context = context
        context.cache = ["kept"]

    def handle(self, data: list[Any], context: Any) -> Any:
        """Return the predictions."""
        name = data[0]["data"] if isinstance(data[0], dict) and "data" in data[0] else data[0]
        if name == "share_context":
            assert self.context is context
            context.cache.append("changed")
            return [[*context.cache, self.context.get_request_id(0), context.model_name]]
        if name == "explained":
            return [context.get_request_header(0, "explain")] * len(data)
        if name == "unknown customer":
            context.set_response_status(404, "Not Found", 0)
            return [{"error": name}]
        if isinstance(name, int) and name >= 400:
            raise PredictionException("chosen text", name)
        if isinstance(name, str) and name in RESPONSES:
            return RESPONSES[name](data)
        return [repr(row) for row in data]
