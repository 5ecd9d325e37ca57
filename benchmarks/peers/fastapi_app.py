"""FastAPI on uvicorn, with uvloop and httptools: worker processes, no batching.

The body is parsed with orjson, which is faster than pydantic models. The coroutine calls the model
directly: with one core per process, a thread would only add a context switch.
"""

import orjson
import uvicorn
from fastapi import FastAPI, Request, Response

from benchmarks.peers.core import PORT, WORKERS, Core

app = FastAPI(openapi_url=None)
core: Core | None = None


@app.on_event("startup")
def _load() -> None:
    global core  # noqa: PLW0603  one per process, created after uvicorn has started it
    core = Core()


@app.post("/predict")
async def predict(request: Request) -> Response:
    assert core is not None
    (response,) = core.predict([orjson.loads(await request.body())])
    return Response(response, media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(
        "benchmarks.peers.fastapi_app:app",
        port=PORT,
        workers=WORKERS,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        timeout_worker_healthcheck=120,  # loading a model takes longer than the default
    )
