"""nginx's configuration: a predict route and a health route, for one model or several."""

import json
import re
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from serving import resources
from serving.container.config import DEFAULT_SAMPLER, Config
from serving.container.errors import ConfigError
from serving.logs import SEVERITIES
from serving.selection import MODEL_NAME
from serving.torchserve_config import TorchServeConfig
from serving.worker.serving_worker.totals import SECONDS

FILES = Path(__file__).resolve().parents[2] / "docker"
TEMPLATE = FILES / "nginx.conf"
METRICS_TEMPLATE = FILES / "metrics.conf"
TORCHSERVE_TEMPLATE = FILES / "torchserve.conf"
UPSTREAM_TEMPLATE = FILES / "upstream.conf"
LOCATION_TEMPLATE = FILES / "location.conf"
CHOOSE_TEMPLATE = FILES / "choose.conf"
WORKER_MARK_TEMPLATE = FILES / "worker_mark.conf"
BODY_SCRIPT = FILES / "body.lua"
CHOOSE_SCRIPT = FILES / "choose.lua"
REQUESTS_SCRIPT = FILES / "requests.lua"
MAX_REQUESTS = 192
"""Requests that are answered or wait for a worker; more get a 429. Less than TorchServe's queue and the
backlog of the listening socket, so that the entrypoint's probe always finds room."""
MAX_LARGE_BYTES_SHARE = 8
"""The part of the memory that the bodies of large requests may take together: one in this many bytes."""
MAX_CONNECTIONS = 4096
UNLIMITED_BYTES = 8 << 30
"""What is taken for the memory of a container without a limit."""
ERROR_LOG_LEVELS = dict(zip(SEVERITIES, ("info", "warn", "warn", "error", "crit"), strict=True))
"""The level of nginx's error log for each LOG_LEVEL."""


class Upstream(NamedTuple):
    """A model behind nginx."""

    config: TorchServeConfig
    socket: Path
    """The socket of its workers or of its TorchServe."""

    @property
    def ready_file(self) -> Path:
        """The file that exists as long as the model accepts predictions."""
        return self.config.run_dir / "ready"


def build_config(config: Config, upstreams: Sequence[Upstream]) -> str:
    """Return nginx.conf for a model or several; raise ConfigError."""
    server_config = upstreams[0].config
    is_direct = server_config.listener_socket is not None
    memory = resources.memory_limit() or UNLIMITED_BYTES
    values = {
        "RUN": server_config.container_dir,
        "CONNECTIONS": min(MAX_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        "PORT": config.port,
        "HEALTH_ROUTE": config.health_route,
        "PREDICT_ROUTE": "/*" if config.any_route else config.predict_route,
        "MAX_REQUEST_BYTES": config.max_request_bytes,
        "MAX_REQUESTS": MAX_REQUESTS,
        "MAX_LARGE_REQUESTS": max(memory // MAX_LARGE_BYTES_SHARE // config.max_request_bytes, 1),
        "LIMIT_S": server_config.response_timeout_s,
        "KEEPALIVE": "" if is_direct else "keepalive 64;",
        "LOG_ALL": int(config.log_all_requests),
        "LOG_FORMAT": config.log_format,
        "MIN_RANK": SEVERITIES.index(config.log_level),
        "ERROR_LOG_LEVEL": ERROR_LOG_LEVELS[config.log_level],
        "LABELS": json.dumps(dict(config.labels) | {"process": "nginx"}),
        "TRACE_PREFIX": config.trace_prefix,
        # A request without a trace gets its own ID as the trace's, if traces are exported.
        "DEFAULT_TRACE_ID": "$request_id" if config.trace_sampler else "",
        "EVENT_LOG": _event_log(server_config.telemetry_port),
        "SAMPLED": {None: "", DEFAULT_SAMPLER: "$is_sampled"}.get(config.trace_sampler, "1"),
        "SAMPLED_BYTES": _sampled_bytes(config.trace_share or 0),
        "REQUESTS_SCRIPT": REQUESTS_SCRIPT,
        "SECONDS": ",".join(map(str, SECONDS)),
        "LOG_PHASE": "log_by_lua_block { record_request() }" if config.has_telemetry else "",
        "SENT_TIME": "$msec" if config.has_telemetry else "",
        "METRICS_PORT": config.metrics_port or "",
        "CHOOSE": "",
    }
    predict_location = '~ "^/."' if config.any_route else f'= "{config.predict_route}"'
    if len(upstreams) == 1:
        body = f"access_by_lua_file {BODY_SCRIPT};"
        models = [_describe_upstream(upstreams[0], predict_location, "model") | {"BODY": body}]
        routes = []
    else:
        models = [
            _describe_upstream(upstream, _name_location(index), f"model-{index}")
            | {"LIMIT": f"set $limit_s {upstream.config.response_timeout_s};"}
            for index, upstream in enumerate(upstreams)
        ]
        values |= _describe_choice(config, upstreams)
        routes = _list_routes(config, upstreams, predict_location)
    path = "" if is_direct else TORCHSERVE_TEMPLATE.read_text()
    if not is_direct and server_config.patched:
        path += WORKER_MARK_TEMPLATE.read_text()
    location = LOCATION_TEMPLATE.read_text().replace("@REQUEST_PATH@\n", path)
    locations = [_fill(location, values | model) for model in models]
    locations += [_fill(CHOOSE_TEMPLATE.read_text(), values | route) for route in routes]
    if routes:
        locations.append(
            "        location ^~ /predictions/ { return 404; }  # no model of this name\n"
        )
    blocks = {
        "@METRICS@\n": METRICS_TEMPLATE.read_text() if config.metrics_port else "",
        "@UPSTREAMS@\n": "".join(
            _fill(UPSTREAM_TEMPLATE.read_text(), values | model) for model in models
        ),
        "@LOCATIONS@\n": "\n".join(locations),
    }
    text = TEMPLATE.read_text()
    for mark, block in blocks.items():
        text = text.replace(mark, block)
    return _fill(text, values)


def _fill(template: str, values: Mapping[str, object]) -> str:
    return re.sub(r"@([A-Z_]+)@", lambda match: str(values[match[1]]), template)


def _describe_upstream(upstream: Upstream, location: str, name: str) -> dict[str, object]:
    """Return the values of location.conf and upstream.conf for a model."""
    return {
        "LOCATION": location,
        "UPSTREAM": name,
        "SOCKET": upstream.socket,
        "READY": upstream.ready_file,
        "MODEL": upstream.config.model_name,
        "TIMEOUT_S": upstream.config.response_timeout_s,
        "BODY": "",
        "LIMIT": "",
    }


def _name_location(index: int) -> str:
    return f"@model-{index}"


def _describe_choice(config: Config, upstreams: Sequence[Upstream]) -> dict[str, object]:
    """Return the values of nginx.conf for the choice between several models; raise ConfigError."""
    names = [upstream.config.model_name for upstream in upstreams]
    locations = ", ".join(
        f'["{name}"] = "{_name_location(index)}"' for index, name in enumerate(names)
    )
    default = choose_default(config, names)
    arguments = f'"{BODY_SCRIPT}", {{ {locations} }}, "{", ".join(names)}", {_quote(default)}'
    route = "/*" if config.any_route else config.predict_route
    return {
        "CHOOSE": f' choose_model = dofile("{CHOOSE_SCRIPT}")({arguments})',
        "LIMIT_S": "$limit_s",
        "PREDICT_ROUTE": f"{route} with parameters.model, or /predictions/NAME (models: {', '.join(names)})",
    }


def _list_routes(
    config: Config, upstreams: Sequence[Upstream], predict_location: str
) -> list[dict[str, object]]:
    """Return the values of choose.conf for the predict route and for the route of each model."""
    routes = {predict_location: "nil"}
    for upstream in upstreams:
        name = upstream.config.model_name
        if config.any_route or f"/predictions/{name}" != config.predict_route:
            routes[f'= "/predictions/{name}"'] = _quote(name)
    return [
        {"ROUTE_LOCATION": location, "MODEL_OF_ROUTE": model} for location, model in routes.items()
    ]


def _quote(name: str | None) -> str:
    return f'"{name}"' if name else "nil"


def choose_default(config: Config, names: Sequence[str]) -> str | None:
    """Return which of several models answers requests that choose none; raise ConfigError.

    It is that of DEFAULT_MODEL, else the one that the predict route names, else `model`, as Google's prebuilt images
    serve no other; None: such requests are rejected.
    """
    in_route = None if config.any_route else config.predict_route.removeprefix("/predictions/")
    default = config.default_model
    if default and default not in names:
        raise ConfigError(f"DEFAULT_MODEL={default!r}: expected one of {', '.join(names)}")
    if default and in_route in names and in_route != default:
        raise ConfigError(
            f"DEFAULT_MODEL={default!r}, but AIP_PREDICT_ROUTE is the route of the model {in_route}: change one"
        )
    in_health = config.health_route.removeprefix("/predictions/")
    if in_health in names:
        raise ConfigError(f"AIP_HEALTH_ROUTE is the route of the model {in_health}: change it")
    candidates = (default, in_route, MODEL_NAME)
    return next((name for name in candidates if name in names), None)


def _event_log(port: int | None) -> str:
    """Return the directive that sends an event for each response; over UDP, so nginx never waits."""
    if port is None:
        return ""
    return f"access_log syslog:server=127.0.0.1:{port},nohostname,tag=nginx event if=$has_event;"


def _sampled_bytes(share: float) -> str:
    """Return a pattern for the first of the bytes of an ID by which the default sampler decides.

    It selects up to 1/256 more requests than the sampler does.
    """
    return "|".join(f"{byte:02x}" for byte in range(min(int(share * 256) + 1, 256)))
