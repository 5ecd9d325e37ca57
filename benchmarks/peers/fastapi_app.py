"""FastAPI under uvicorn: uvloop, httptools, a process a core, the model called where it is asked.

The body is taken raw and read with orjson: no pydantic models, which cost more. The route is a
coroutine that does not hand the work to a thread: with one core to a process a thread only adds
a switch.
"""

import uvicorn
from fastapi import FastAPI, Request, Response

from benchmarks.peers.core import PORT, WORKERS, Core

app = FastAPI(openapi_url=None)
core: Core | None = None


@app.on_event("startup")
def _load() -> None:
    global core  # noqa: PLW0603  one to a process, made after uvicorn has started it
    core = Core()


@app.post("/predict")
async def predict(request: Request) -> Response:
    assert core is not None
    return Response(core.answer(await request.body()), media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(
        "benchmarks.peers.fastapi_app:app",
        port=PORT,
        workers=WORKERS,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
