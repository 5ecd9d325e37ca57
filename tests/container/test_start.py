"""What makes the container start sooner: the fork server, which it does not depend on, and Java's class data."""

import pytest

from tests import cases
from tests.container.conftest import HARDENED, VERTEX, Container, Start, wait_until_healthy
from tests.http import wait_for
from tests.images import request_body

pytestmark = pytest.mark.xdist_group("container")

ENDED = "the fork server was killed by SIGKILL; workers that start from now on import torch"


def test_workers_are_replaced_with_and_without_the_fork_server(start: Start) -> None:
    container = start(*HARDENED, **VERTEX)
    endpoint = container.endpoint(9000, VERTEX["AIP_PREDICT_ROUTE"])
    wait_until_healthy(endpoint, VERTEX["AIP_HEALTH_ROUTE"])

    def predicts() -> bool:
        return endpoint.post(request_body(cases.INSTANCE)).code == 200

    forked = container.workers()
    container.kill("model_service_worker")
    wait_for(predicts, 60, "an answer of a forked worker")
    assert not set(container.workers()) & set(forked)
    assert len(container.workers()) == len(forked)
    assert ENDED not in container.logs()

    container.kill("serving_worker.fork_server")
    wait_for(lambda: ENDED in container.logs(), 10, "the log's line")
    assert all(predicts() for _ in range(20))
    container.kill("model_service_worker")
    wait_for(predicts, 60, "an answer of a worker that imported torch")
    assert container.is_running


def test_java_uses_its_class_data_archive(vertex: Container) -> None:
    """Java does not map an archive that does not fit its jars."""
    maps = vertex.exec("sh", "-c", "cat /proc/[0-9]*/maps")
    assert "/opt/torchserve/classes.jsa" in maps
