"""LitServe: a worker process a core, batches, its fast queue."""

from typing import Any

import litserve
from litserve import LitAPI

from benchmarks.peers.core import LARGEST_BATCH, PORT, WORKERS, Core


class Inference(LitAPI):
    """The four verbs of LitServe's own contract."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Load the model in its worker."""
        self.core = Core()

    def decode_request(self, request: dict[str, Any]) -> Any:
        return request["instances"]

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, inputs: Any) -> Any:
        return self.core.predict(inputs)

    def unbatch(self, output: Any) -> Any:
        return output

    def encode_response(self, output: Any) -> dict[str, Any]:
        return {"predictions": output}


if __name__ == "__main__":
    api = Inference(max_batch_size=LARGEST_BATCH, batch_timeout=0.001)
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=WORKERS, fast_queue=True, timeout=60
    )
    server.run(port=PORT, host="127.0.0.1", log_level="warning", generate_client_file=False)
