"""LitServe: a worker process a core, batches, its fast queue."""

from typing import Any

import litserve
from litserve import LitAPI

from benchmarks.peers.core import LARGEST_BATCH, PORT, WORKERS, Core


class Inference(LitAPI):
    """What LitServe calls; it makes lists of requests of what is decoded, and takes them apart again."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Load the model in its worker."""
        self.core = Core()

    def decode_request(self, request: dict[str, Any]) -> Any:
        return request["instances"]

    def predict(self, inputs: Any) -> Any:
        return self.core.predict(inputs)

    def encode_response(self, output: Any) -> dict[str, Any]:
        return {"predictions": output}


if __name__ == "__main__":
    api = Inference(max_batch_size=LARGEST_BATCH, batch_timeout=0.001)
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=WORKERS, fast_queue=True, timeout=60
    )
    server.run(port=PORT, host="127.0.0.1", log_level="warning", generate_client_file=False)
