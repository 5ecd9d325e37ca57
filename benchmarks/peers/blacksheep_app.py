"""BlackSheep on uvicorn: less work per request than FastAPI, and the same calls of the model."""

import orjson
from blacksheep import Application, Content, Request, Response, Router

from benchmarks.peers import asgi
from benchmarks.peers.core import Core

app = Application(router=Router())  # the default one would get the route twice
core: Core | None = None


@app.on_start
async def load(_app: Application) -> None:
    global core  # noqa: PLW0603  one per process, created after uvicorn has started it
    core = Core()


@app.router.post("/predict")
async def predict(request: Request) -> Response:
    assert core is not None
    (response,) = core.predict([orjson.loads(await request.read() or b"")])
    return Response(200, content=Content(b"application/json", response))


if __name__ == "__main__":
    asgi.serve("benchmarks.peers.blacksheep_app:app")
