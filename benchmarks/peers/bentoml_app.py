"""BentoML: worker processes, adaptive batching. A batchable method takes no parameters beside the batch."""

from typing import Any

import bentoml
import orjson

from benchmarks.peers.core import MAX_BATCH_SIZE, WORKERS, Core


@bentoml.service(workers=WORKERS, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Inference:
    """A service with one batchable method."""

    def __init__(self) -> None:
        self.core = Core()

    @bentoml.api(
        route="/predict", batchable=True, max_batch_size=MAX_BATCH_SIZE, max_latency_ms=10_000
    )
    def predict(self, instances: list[Any]) -> list[Any]:
        (response,) = self.core.predict([{"instances": instances}])
        return orjson.loads(response)["predictions"]
