"""A rolling update of three pods behind an nginx, under load: no request is lost, and what it takes to lose some.

Docker plays the nodes (node.py), this file the Deployment's controller and the Service: what a
balancer sends where lags behind what is decided, as it does in every cluster.
"""

import copy
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from docker.entrypoint import LEAVE_S
from tests import wire
from tests.container.conftest import Container, docker
from tests.http import Endpoint
from tests.kubernetes import node
from tests.kubernetes.conftest import Thing, overlay, pod
from tests.kubernetes.node import Running

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("kubernetes")]
LAG_S = 7
"""How long the balancer goes on sending to a pod that was told to leave: longer than the container
alone would bear, and a long time for kube-proxy."""
CLIENTS, PAUSE_S = 4, 0.1
NGINX = """
worker_processes 1;
pid /tmp/nginx.pid;
error_log stderr crit;
events { worker_connections 512; }
http {
    access_log off;
    client_body_temp_path /tmp/body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/unused;
    uwsgi_temp_path /tmp/unused;
    scgi_temp_path /tmp/unused;
    upstream pods { SERVERS keepalive 8; }
    server {
        listen 8080;
        location / {
            proxy_pass http://pods;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_connect_timeout 2s;
            # Neither does kube-proxy try another pod.
            proxy_next_upstream off;
        }
    }
}
"""


class Balancer:
    """The image's own nginx before some pods."""

    def __init__(self, folder: Path, image: str, network: str, pods: list[Running]) -> None:
        """Start it with these pods behind it."""
        self.pods = list(pods)
        self._lock, self._folder = threading.Lock(), folder
        folder.chmod(0o755)
        self._write()
        words = (
            "run",
            "--detach",
            "--network",
            network,
            "--tmpfs",
            "/tmp",
            "--volume",
            f"{folder}:/conf:ro",
            "--entrypoint",
            "/usr/sbin/nginx",
            image,
            "-e",
            "stderr",
            "-c",
            "/conf/nginx.conf",
            "-g",
            "daemon off;",
        )
        self.container = Container(docker(*words).strip().splitlines()[-1])

    def change(self, added: list[Running], removed: list[Running]) -> None:
        """Send to other pods from now on; what is under way goes on where it is."""
        with self._lock:
            self.pods = [each for each in [*self.pods, *added] if each not in removed]
            self._write()
            docker("kill", "--signal", "HUP", self.container.name)

    def _write(self) -> None:
        servers = " ".join(
            f"server {each.container.address}:{each.port('http')} max_fails=0;"
            for each in self.pods
        )
        (self._folder / "nginx.conf").write_text(NGINX.replace("SERVERS", servers))


class Cluster:
    """Pods, the balancer before them, and the one who changes them."""

    def __init__(self, folder: Path, image: str, network: str) -> None:
        """Start as many pods as the manifest has at least, and wait until they are ready."""
        self._image, self._network = image, network
        self.leaving: list[Future[int]] = []
        self._pool = ThreadPoolExecutor(16)
        self.started: list[Running] = []
        count = overlay("gke-cpu")["HorizontalPodAutoscaler"]["spec"]["minReplicas"]
        pods = [self._start() for _ in range(count)]
        for each in pods:
            each.start_up()
        self.balancer = Balancer(folder, image, network, pods)

    def _start(self) -> Running:
        self.started.append(node.run(pod("gke-cpu"), self._image, self._network))
        return self.started[-1]

    def endpoint(self) -> Endpoint:
        """Return the URL that predicts, at the balancer."""
        path = self.started[0].environ["AIP_PREDICT_ROUTE"]
        return self.balancer.container.endpoint(8080, path)

    def update(self) -> None:
        """Replace every pod as the Deployment's strategy says."""
        strategy = overlay("gke-cpu")["Deployment"]["spec"]["strategy"]["rollingUpdate"]
        assert strategy == {"maxSurge": 1, "maxUnavailable": 0}
        for old in list(self.balancer.pods):
            new = self._start()
            new.start_up()
            self.balancer.change([new], [])
            self.delete(old)

    def delete(self, old: Running, spec: Thing | None = None) -> None:
        """Tell a pod to leave; `spec` says how, where it is not its own manifest."""
        self.leaving.append(self._pool.submit(Running(old.container, spec or old.pod).terminate))
        self.leaving.append(self._pool.submit(self._forget, old))

    def _forget(self, old: Running) -> int:
        time.sleep(LAG_S)
        self.balancer.change([], [old])
        return 0

    def settle(self) -> list[int]:
        """Wait until whoever leaves has left; return their exit codes."""
        codes = [each.result(90) for each in self.leaving]
        self.leaving.clear()
        return codes

    def end(self) -> None:
        """Remove every container."""
        self._pool.shutdown()
        for each in [*(one.container for one in self.started), self.balancer.container]:
            docker("rm", "--force", each.name)


@pytest.fixture(scope="module")
def cluster(
    image: str, network: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("balancer"), image, network)
    yield cluster
    cluster.end()


@contextmanager
def load(endpoint: Endpoint) -> Iterator[Counter[str]]:
    """Ask all the time; count what comes back, by status or by the name of the error."""
    counted: Counter[str] = Counter()
    over, body = threading.Event(), wire.CASES[0].body

    def client() -> None:
        while not over.wait(PAUSE_S):
            try:
                counted[str(endpoint.post(body).code)] += 1
            except OSError as error:
                counted[type(error).__name__] += 1

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield counted
    finally:
        over.set()
        for thread in threads:
            thread.join(60)


def test_an_update_of_all_three_loses_no_request(cluster: Cluster) -> None:
    before = set(map(id, cluster.balancer.pods))
    with load(cluster.endpoint()) as counted:
        cluster.update()
        codes = cluster.settle()
    assert set(counted) == {"200"}, counted
    assert counted["200"] > 100
    # Nobody had to be killed at the end of the grace period.
    assert set(codes) == {0}
    assert len(cluster.balancer.pods) == 3
    assert not before & set(map(id, cluster.balancer.pods))


def without_pre_stop(spec: Thing) -> None:
    del spec["containers"][0]["lifecycle"]


def without_grace(spec: Thing) -> None:
    spec["terminationGracePeriodSeconds"] = 0


@pytest.mark.parametrize("spoil", [without_pre_stop, without_grace])
def test_one_pod_that_leaves_without_its_time_loses_some(cluster: Cluster, spoil: object) -> None:
    assert callable(spoil)
    old = cluster.balancer.pods[0]
    spec = copy.deepcopy(old.pod)
    spoil(spec)
    with load(cluster.endpoint()) as counted:
        cluster.delete(old, spec)
        cluster.settle()
    lost = sum(count for answer, count in counted.items() if answer != "200")
    assert lost, counted
    assert counted["200"], counted


def test_the_lag_is_one_that_the_container_alone_does_not_bear() -> None:
    assert (
        LEAVE_S
        < LAG_S
        < LEAVE_S + pod("gke-cpu")["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    )
