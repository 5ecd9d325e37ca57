"""The pod in the local engine: environment, rights, limits and probes as the manifests render them."""

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
from tests.kubernetes.node import Running, environ

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("kubernetes")]
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def running(image: str, network: str) -> Iterator[Running]:
    """Start the pod of gke-cpu; it is not ready yet."""
    assert overlay("gke-cpu")["NetworkPolicy"]["spec"]["egress"] == []
    with container_starter(image) as start:
        yield node.run(pod("gke-cpu"), start, network)


def test_it_is_ready_well_within_its_startup_probe(running: Running) -> None:
    assert not running.probe("readinessProbe"), "ready before the model has answered"
    took_s = running.start_up()
    found = running.spec["startupProbe"]
    assert took_s < found["periodSeconds"] * found["failureThreshold"] / 2
    assert running.probe("livenessProbe")


def test_its_limits_make_the_layout_that_was_measured(running: Running) -> None:
    said = "Starting TorchServe: 2 workers x 1 threads, batches of up to 32"
    assert said in running.container.logs()


def test_the_metrics_are_where_the_manifests_send_prometheus(running: Running) -> None:
    running.endpoint().post(request_body(cases.INSTANCE))
    (endpoint,) = overlay("gke-cpu")["PodMonitoring"]["spec"]["endpoints"]
    notes = overlay("any")["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    port, path = running.port(endpoint["port"]), endpoint["path"]
    assert (notes["prometheus.io/port"], notes["prometheus.io/path"]) == (str(port), path)
    metrics = running.container.endpoint(port, path)
    # The adapter's rule makes the autoscaler's metric of these.
    wanted = ("\nserving_queue_wait_seconds_sum", "\nserving_queue_wait_seconds_count")

    def are_there() -> bool:
        text = metrics.send("GET", path).body
        return all(each in text for each in wanted)

    wait_for(are_there, 20, "the waits of requests")


def test_tmp_holds_the_most_that_may_be_on_its_way_at_once(running: Running) -> None:
    size, route = 10 * MEBIBYTE - 1, environ(running.pod)["AIP_PREDICT_ROUTE"]
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
    # A request for which there is no place is refused; /tmp is never full.
    assert set(answers) <= {b"HTTP/1.1 200", b"HTTP/1.1 429"}
    assert free > total / 2
