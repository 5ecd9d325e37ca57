"""LitServe: worker processes, batching, the fast queue."""

from typing import Any

import litserve
from fastapi import Response
from litserve import LitAPI

from benchmarks.peers.core import DEVICE, MAX_BATCH_SIZE, PORT, WORKERS, Core


class Inference(LitAPI):
    """LitServe's API; LitServe collects decoded requests in a list and splits the list of outputs."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Load the model in the worker process."""
        self.core = Core()

    def decode_request(self, request: dict[str, Any]) -> Any:
        return request

    def predict(self, inputs: Any) -> Any:
        return self.core.predict(inputs)

    def encode_response(self, output: Any) -> Response:
        return Response(output, media_type="application/json")


if __name__ == "__main__":
    api = Inference(max_batch_size=MAX_BATCH_SIZE, batch_timeout=0.001)
    server = litserve.LitServer(
        api,
        accelerator=DEVICE,
        devices=1,
        workers_per_device=WORKERS,
        fast_queue=True,
        timeout=60,
    )
    server.run(port=PORT, host="127.0.0.1", log_level="warning", generate_client_file=False)
