"""The pod in Docker, with the variables, security context, limits and probes of the rendered manifests."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests import cases
from tests.container.conftest import container_starter
from tests.http import wait_for
from tests.images import request_body
from tests.kubernetes import node
from tests.kubernetes.conftest import overlay, pod
from tests.kubernetes.node import RunningPod, environment

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("kubernetes")]
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def running(image: str, network: str) -> Iterator[RunningPod]:
    """Start the pod of gke-cpu, without waiting until it is ready."""
    assert overlay("gke-cpu")["NetworkPolicy"]["spec"]["egress"] == []
    with container_starter(image) as start:
        yield node.run(pod("gke-cpu"), start, network)


def test_pod_is_ready_within_a_minute(running: RunningPod) -> None:
    assert not running.probe("readinessProbe"), "ready before the golden request passed"
    took_s = running.wait_until_ready()
    assert took_s < 60
    assert running.probe("livenessProbe")


def test_limits_result_in_two_workers_of_one_thread(running: RunningPod) -> None:
    message = "Starting TorchServe: 2 workers x 1 threads, batches of up to 32"
    assert message in running.container.logs()


def test_metrics_are_at_the_path_that_the_manifests_give_prometheus(running: RunningPod) -> None:
    running.endpoint().post(request_body(cases.INSTANCE))
    (endpoint,) = overlay("gke-cpu")["PodMonitoring"]["spec"]["endpoints"]
    annotations = overlay("any")["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    port, path = running.port(endpoint["port"]), endpoint["path"]
    assert (annotations["prometheus.io/port"], annotations["prometheus.io/path"]) == (
        str(port),
        path,
    )
    metrics = running.container.endpoint(port, path)
    # The adapter's rule computes the autoscaler's metric from these.
    names = ("\nserving_queue_wait_seconds_sum", "\nserving_queue_wait_seconds_count")

    def has_names() -> bool:
        text = metrics.send("GET", path).body
        return all(each in text for each in names)

    wait_for(has_names, 20, "the queue waits of requests")


def test_tmp_has_space_for_the_largest_concurrent_bodies(running: RunningPod) -> None:
    size, route = 10 * MEBIBYTE - 1, environment(running.pod)["AIP_PREDICT_ROUTE"]
    head = f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
    body, address = request_body(cases.INSTANCE), (running.container.address, running.port("http"))
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address, 10)) for _ in range(10)]
        for client in clients:
            client.sendall(head.encode() + body + b" " * (size - len(body) - 1))
        time.sleep(1)
        free, total = map(int, running.container.exec("stat", "-fc", "%f %b", "/tmp").split())
        for client in clients:
            client.sendall(b" ")
        answers = [client.recv(12) for client in clients]
    # Requests beyond the limit are rejected, so that /tmp is never full.
    assert set(answers) <= {b"HTTP/1.1 200", b"HTTP/1.1 429"}
    assert free > total / 2
