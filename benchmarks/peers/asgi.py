"""Serve an ASGI application with uvicorn, uvloop and httptools: worker processes, no batching."""

import uvicorn

from benchmarks.peers.core import PORT, WORKERS


def serve(application: str) -> None:
    """Serve `module:name` until the process is stopped."""
    uvicorn.run(
        application,
        port=PORT,
        workers=WORKERS,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        timeout_worker_healthcheck=120,  # loading a model takes longer than the default
    )
