"""The end of the emulator: all that it, its clients' operations and its builds started is stopped and removed."""

import time
from concurrent.futures import wait

from emulator import containers, functions, images
from emulator.state import State

TIMEOUT_S = 60
POLL_S = 0.5


def remove_all(state: State) -> None:
    """Cancel all operations, and remove every container, function and image that they started or built."""
    for pool in state.pools.values():
        for replica in pool.replicas:
            replica.release()
    operations = list(state.operations.values())
    for operation in operations:
        operation.cancelled.set()
    docker, deadline = state.config.engine, time.monotonic() + TIMEOUT_S
    pending = {operation.future for operation in operations}
    images.remove(docker, f"label={containers.LABEL}")
    # An operation that does not check for its cancellation fails once its container is gone.
    while pending and time.monotonic() < deadline:
        pending = wait(pending, POLL_S).not_done
        images.remove(docker, f"label={containers.LABEL}")
    functions.stop_all(state)
    prefix = f"{state.config.registry}/"
    pushed = [name for name in images.image_names(docker) if name.startswith(prefix)]
    images.remove_with_images(docker, [*pushed, *state.built_images])
