"""The handler of a stock archive that does what each request says: a method's name and its arguments, as text/plain."""

import ctypes
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ts.handler_utils.utils import send_intermediate_predict_response

RELEASE = Path("/tmp/release")
PART = "x" * (1 << 16)


class Handler:
    """Counts what it did, so that a later request can ask."""

    def __init__(self) -> None:
        self.counts = {"marks": 0, "releases": 0, "closed": 0}

    def initialize(self, context: Any) -> None:
        """Load nothing."""

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        """Return a text or an iterator for each request of a batch."""
        answers = []
        for index, row in enumerate(data):
            self.index, self.context = index, context
            name, *arguments = row["body"].split()
            answers.append(getattr(self, name)(*arguments))
        return answers

    def pid(self) -> str:
        return str(os.getpid())

    def break_device(self) -> str:
        """Let CUDA report what a failed kernel leaves behind; no test machine has a GPU."""

        def synchronize() -> None:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

        cuda: Any = torch.cuda
        cuda.is_initialized, cuda.synchronize = lambda: True, synchronize
        return "broken"

    def exit(self) -> str:
        os._exit(3)

    def size(self, text: str) -> str:
        return str(len(text))

    def large(self, size: str) -> str:
        return "x" * int(size)

    def status(self, code: str) -> str:
        """Set a status and headers."""
        self.context.set_response_status(int(code), "Own Phrase", self.index)
        self.context.set_response_header(self.index, "X-Reason", "the handler's own")
        self.context.set_response_header(self.index, "Retry-After", "17")
        self.context.set_response_content_type(self.index, "application/problem+json")
        return f'{{"code": {code}}}'

    def add(self, name: str) -> str:
        self.counts[name] += 1
        return "added"

    def count(self, name: str) -> str:
        return str(self.counts[name])

    def sleep(self, seconds: str) -> str:
        time.sleep(float(seconds))
        return "slept"

    def hang_in_native_code(self) -> str:
        """Lock a mutex of C twice, and keep the interpreter's lock; signals do not end that."""
        mutex, library = ctypes.create_string_buffer(64), ctypes.PyDLL(None)
        for _ in range(2):
            library.pthread_mutex_lock(mutex)
        return "locked"

    def stream_two_parts(self) -> Iterator[str]:
        """Yield the second part only after another request has asked for it."""
        before = self.counts["releases"]
        yield "first"
        while self.counts["releases"] == before:
            time.sleep(0.01)
            yield ""
        yield "second"

    def stream_endlessly(self) -> Iterator[str]:
        try:
            while True:
                yield PART
        finally:
            self.counts["closed"] += 1

    def send_intermediate(self) -> str:
        """Send a part, and the last one once the test has created a file."""
        RELEASE.unlink(missing_ok=True)
        ids = {0: self.context.request_ids[self.index]}
        send_intermediate_predict_response(["first"], ids, "ok", 200, self.context)
        while not RELEASE.exists():
            time.sleep(0.02)
        return "last"
