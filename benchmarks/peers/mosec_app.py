"""Mosec: a front end in Rust, a worker process a core, a batch of what is queued."""

from typing import Any

import orjson
from mosec import Server, Worker

from benchmarks.peers.core import LARGEST_BATCH, WORKERS, Core


class Inference(Worker):
    """Reads, passes and writes in one process: a second stage would only move the bytes on."""

    def __init__(self) -> None:
        self.core = Core()

    def deserialize(self, data: bytes) -> Any:
        return orjson.loads(data)["instances"]

    def forward(self, data: list[Any]) -> list[Any]:
        return self.core.predict(data)

    def serialize(self, data: Any) -> bytes:
        return orjson.dumps({"predictions": data})


if __name__ == "__main__":
    server = Server()
    server.append_worker(Inference, num=WORKERS, max_batch_size=LARGEST_BATCH, max_wait_time=1)
    server.run()
