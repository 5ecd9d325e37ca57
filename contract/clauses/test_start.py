"""The container starts: image, port, liveness."""

import json

from contract.clauses.conftest import Watched, why
from contract.http import predict


def test_the_image_sets_no_aip_variable_itself(started: Watched) -> None:
    config = started.docker(
        "image", "inspect", "--format", "{{json .Config.Env}}", started.options.image
    )
    assert not [name for name in json.loads(config) or [] if name.startswith("AIP_")]


def test_it_listens_on_AIP_HTTP_PORT_on_all_addresses_within_40_s(started: Watched) -> None:
    port, limit = started.variables.port, started.options.liveness_s
    assert started.port_open_s is not None, f"port {port} is closed after {limit} s: {why(started)}"


def test_its_entrypoint_never_exits_while_it_is_healthy(ready: Watched) -> None:
    assert ready.running, why(ready)


def test_the_default_routes_of_vertex_are_served(
    started_with_defaults: Watched, instances: list[object]
) -> None:
    container = started_with_defaults
    assert container.healthy_s is not None, why(container)
    assert predict(container, {"instances": instances}).code == 200
