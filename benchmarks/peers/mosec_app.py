"""Mosec: a frontend in Rust, worker processes, batches of the queued requests."""

from typing import Any

import orjson
from mosec import Server, Worker

from benchmarks.peers.core import MAX_BATCH_SIZE, WORKERS, Core


class Inference(Worker):
    """Parses, predicts and serializes in one process: a second stage would only copy the bytes."""

    def __init__(self) -> None:
        self.core = Core()

    def deserialize(self, data: bytes) -> Any:
        return orjson.loads(data)

    def forward(self, data: list[Any]) -> list[bytes]:
        return self.core.predict(data)

    def serialize(self, data: bytes) -> bytes:
        return data


if __name__ == "__main__":
    server = Server()
    server.append_worker(Inference, num=WORKERS, max_batch_size=MAX_BATCH_SIZE, max_wait_time=1)
    server.run()
