"""FastAPI on uvicorn.

The body is parsed with orjson, which is faster than pydantic models. The coroutine calls the model
directly: with one core per process, a thread would only add a context switch.
"""

import orjson
from fastapi import FastAPI, Request, Response

from benchmarks.peers import asgi
from benchmarks.peers.core import Core

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
    asgi.serve("benchmarks.peers.fastapi_app:app")
