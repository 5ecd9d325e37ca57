"""A rolling update of three pods behind nginx, under load: no request is lost.

Docker emulates the nodes (node.py); this file emulates the Deployment's controller and the Service. As in a real
cluster, the load balancer continues to send requests to a pod for some seconds after its deletion.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving.container import entrypoint
from tests import cases
from tests.container.conftest import Container, Start, container_starter, docker
from tests.http import Endpoint
from tests.kubernetes import node
from tests.kubernetes.conftest import overlay, pod
from tests.kubernetes.node import RunningPod

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("kubernetes")]
LAG_S = entrypoint.SHUTDOWN_DELAY_S + 2
"""How long the load balancer still sends requests to a deleted pod: longer than the container alone would accept
them, and long for kube-proxy."""
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
            # Like kube-proxy, do not try another pod.
            proxy_next_upstream off;
        }
    }
}
"""
RUN_NGINX = ("-e", "stderr", "-c", "/conf/nginx.conf", "-g", "daemon off;")


class Cluster:
    """The autoscaler's minimum of pods, behind the nginx of the image, and operations on them."""

    def __init__(self, folder: Path, start: Start, image: str, network: str) -> None:
        """Start the pods, wait until they are ready, and start nginx with its configuration in `folder`."""
        self._start, self._network, self._folder = start, network, folder
        self._pool, self._lock = ThreadPoolExecutor(16), threading.Lock()
        self._terminating: list[Future[int]] = []
        count = overlay("gke-cpu")["HorizontalPodAutoscaler"]["spec"]["minReplicas"]
        self.pods = [node.run(pod("gke-cpu"), start, network) for _ in range(count)]
        for each in self.pods:
            each.wait_until_ready()
        folder.chmod(0o755)
        self._configure()
        options = (f"--network={network}", "--tmpfs=/tmp", f"--volume={folder}:/conf:ro")
        nginx = "--entrypoint=/usr/sbin/nginx"
        self.balancer = Container(docker.start(image, *options, nginx, command=RUN_NGINX).name)

    def endpoint(self) -> Endpoint:
        """Return the prediction URL at the load balancer."""
        return self.balancer.endpoint(8080, node.environment(pod("gke-cpu"))["AIP_PREDICT_ROUTE"])

    def update(self) -> None:
        """Replace every pod by the Deployment's strategy."""
        strategy = overlay("gke-cpu")["Deployment"]["spec"]["strategy"]["rollingUpdate"]
        assert strategy == {"maxSurge": 1, "maxUnavailable": 0}
        for old in list(self.pods):
            new = node.run(pod("gke-cpu"), self._start, self._network)
            new.wait_until_ready()
            self._change_backends([new], [])
            self.delete(old)

    def delete(self, old: RunningPod) -> None:
        """Start to terminate a pod as its manifest specifies; the load balancer stops sending after LAG_S."""

        def remove_later() -> int:
            time.sleep(LAG_S)
            self._change_backends([], [old])
            return 0

        self._terminating += [self._pool.submit(old.terminate), self._pool.submit(remove_later)]

    def wait_for_deletions(self) -> set[int]:
        """Wait until every deleted pod has exited; return the exit codes."""
        return {each.result(90) for each in self._terminating}

    def _change_backends(self, added: list[RunningPod], removed: list[RunningPod]) -> None:
        """Change the load balancer's pods; requests in progress stay at their pod."""
        with self._lock:
            self.pods = [each for each in [*self.pods, *added] if each not in removed]
            self._configure()
            docker("kill", "--signal", "HUP", self.balancer.name)

    def _configure(self) -> None:
        servers = " ".join(
            f"server {each.container.address}:{each.port('http')} max_fails=0;"
            for each in self.pods
        )
        (self._folder / "nginx.conf").write_text(NGINX.replace("SERVERS", servers))


@pytest.fixture(scope="module")
def cluster(
    image: str, network: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    with container_starter(image) as start:
        cluster = Cluster(tmp_path_factory.mktemp("balancer"), start, image, network)
        yield cluster
        cluster.balancer.remove()


@contextmanager
def load(endpoint: Endpoint) -> Iterator[Counter[str]]:
    """Send requests continuously; count the responses by status or error name."""
    counted: Counter[str] = Counter()
    stop, body = threading.Event(), cases.CASES[0].body

    def client() -> None:
        while not stop.wait(PAUSE_S):
            try:
                counted[str(endpoint.post(body).code)] += 1
            except OSError as error:
                counted[type(error).__name__] += 1

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client) for _ in range(CLIENTS)]
        try:
            yield counted
        finally:
            stop.set()
    for each in clients:
        each.result()


def test_rolling_update_loses_no_request(cluster: Cluster) -> None:
    before = set(map(id, cluster.pods))
    with load(cluster.endpoint()) as counted:
        cluster.update()
        codes = cluster.wait_for_deletions()
    assert set(counted) == {"200"}, counted
    assert counted["200"] > 100
    assert codes == {0}, "a pod was killed at the end of its grace period"
    assert len(cluster.pods) == 3
    assert not before & set(map(id, cluster.pods))
