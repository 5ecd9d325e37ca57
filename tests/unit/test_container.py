"""The container's configuration and nginx's, without a container."""

import dataclasses
import re
from pathlib import Path

import pytest

from handler import envelope
from serving import resources
from serving.container import entrypoint, nginx, nginx_config
from serving.container.config import read_config
from serving.container.errors import ConfigError
from serving.container.nginx_config import Upstream
from serving.layout import Layout
from serving.torchserve_config import TorchServeConfig
from tests import images
from tests.images import ROOT

ROUTES = {"AIP_HEALTH_ROUTE": "/h", "AIP_PREDICT_ROUTE": "/p:predict", "AIP_HTTP_PORT": "9000"}
IDS = {"AIP_ENDPOINT_ID": "123", "AIP_DEPLOYED_MODEL_ID": "456"}
VERTEX_ROUTE = "/v1/endpoints/123/deployedModels/456"
STORAGE = {"AIP_STORAGE_URI": "gs://bucket/folder"}


@pytest.mark.parametrize(
    ("environ", "port", "health", "predict"),
    [
        (ROUTES, 9000, "/h", "/p:predict"),
        (IDS, 8080, VERTEX_ROUTE, f"{VERTEX_ROUTE}:predict"),
        ({}, 8080, "/ping", "/predictions/digits"),
        (STORAGE, 8080, "/ping", "/predictions/model"),  # as Google's prebuilt images do
    ],
)
def test_routes_come_from_the_variables_or_are_vertex_ais_defaults(
    environ: dict[str, str], port: int, health: str, predict: str
) -> None:
    config = read_config(environ, "digits")
    assert (config.port, config.health_route, config.predict_route) == (port, health, predict)
    assert config.max_request_bytes == 10485760
    assert config.storage_uri == environ.get("AIP_STORAGE_URI")


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("AIP_HTTP_PORT", "0", "a port from 1 to 65535"),
        ("AIP_HTTP_PORT", "65536", "a port from 1 to 65535"),
        ("AIP_HTTP_PORT", "80a", "a port from 1 to 65535"),
        ("AIP_HEALTH_ROUTE", "ping", "a path that starts with / and has no spaces"),
        ("AIP_PREDICT_ROUTE", '/x" { return 200; } location "/y', "a path that starts with /"),
        ("AIP_PREDICT_ROUTE", "/$request_uri", "a path that starts with /"),
        ("AIP_PREDICT_ROUTE", "/a//b", "a path without //"),
        ("AIP_PREDICT_ROUTE", "/a/../b", "a path without //"),
        ("INVOKE_ROUTE_PREFIX", "/v1/*", "/*"),
        ("MAX_REQUEST_BYTES", "-1", "a number of bytes from 1 to 104857600"),
        ("MAX_REQUEST_BYTES", "1000000000", "a number of bytes from 1 to 104857600"),
        ("ARCHIVE_SHA256", "abc", "a SHA-256: 64 hexadecimal digits"),
        ("ACCESS_LOG", "some", "errors or all"),
        ("TORCHSERVE_PATCHES", "no", "on or off"),
        ("SERVICE_ENVELOPE", "kserve", "json or none"),
        ("WRAP_INSTANCES", "body", "data"),
        ("METRICS_PORT", "off", "a port from 1 to 65535"),
        ("GPU_CLIENTS", "0", "a number of containers from 1 to 48"),
    ],
)
def test_invalid_variable_is_reported_with_what_was_expected(
    variable: str, value: str, expected: str
) -> None:
    message = f"^{re.escape(f'{variable}={value!r}: expected {expected}')}"
    with pytest.raises(ConfigError, match=message):
        read_config(ROUTES | {variable: value}, "digits")


@pytest.mark.parametrize(
    ("variable", "value"), [("AIP_HEALTH_ROUTE", "/p:predict"), ("METRICS_PORT", "9000")]
)
def test_two_variables_with_the_same_value_are_both_named(variable: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{variable} and AIP_.* are both {value}"):
        read_config(ROUTES | {variable: value}, "digits")


def test_carriage_returns_of_a_file_from_windows_are_removed() -> None:
    environ = {name: f"{value}\r" for name, value in (ROUTES | STORAGE).items()}
    assert read_config(environ, "digits") == read_config(ROUTES | STORAGE, "digits")


def test_user_folder_and_caches_are_where_user_10001_can_write() -> None:
    text = (ROOT / "Dockerfile").read_text()
    for name in ("HOME", "XDG_CACHE_HOME", "HF_HOME", "TORCH_HOME"):
        assert re.search(rf"^ +{name}=/tmp\b", text, re.MULTILINE), name
    assert re.search(r"^ +USER=\w", text, re.MULTILINE)  # torch.compile asks for the user's name


def test_configuration_is_logged_as_pairs_of_names_and_values() -> None:
    text = str(read_config(ROUTES | {"AIP_ENDPOINT_ID": "123"}, "digits"))
    assert text.startswith("port=9000 health_route=/h predict_route=/p:predict ")
    assert text.endswith("endpoint_id=123")
    assert "None" not in text


OTLP = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:1"}


def render_nginx(*names: str, **environ: str) -> str:
    """Return nginx.conf for the model in tests/toy, or for several models."""
    config = read_config(ROUTES | environ, "digits")
    settings = TorchServeConfig(
        archive=images.ARCHIVE,
        run_dir=Path("/run/x"),
        layout=Layout(2, 1),
        address="unix:/s",
        listener_socket=Path("/l") if config.request_path == "direct" else None,
        patched=config.torchserve_patches,
        response_timeout_s=config.response_timeout_s or 50,
    )
    models = [
        dataclasses.replace(
            settings, archive=Path(name), run_dir=Path("/run/x", name), shared_dir=Path("/run/x")
        )
        for name in names
    ]
    upstreams = [Upstream(model, model.run_dir / "s") for model in models or [settings]]
    return nginx_config.build_config(config, upstreams)


def test_several_models_have_a_route_each_and_share_the_predict_route() -> None:
    text = render_nginx("a", "b")
    for part in (
        'location = "/p:predict" {',
        'location = "/predictions/a" {',
        "server unix:/run/x/b/s max_conns=192;",
        "rewrite ^ /predictions/b? break;",
        "if (!-f /run/x/b/ready) { return 503; }",
        "the limit of $limit_s s",
        "POST /p:predict with parameters.model, or /predictions/NAME (models: a, b), health",
    ):
        assert part in text, part
    assert not re.search("@[A-Z_]+@", text)
    assert "choose" not in render_nginx()


@pytest.mark.parametrize(
    ("environ", "default"),
    [
        ({}, "nil"),
        ({"DEFAULT_MODEL": "b"}, '"b"'),
        ({"AIP_PREDICT_ROUTE": "/predictions/b"}, '"b"'),
        ({"AIP_PREDICT_ROUTE": "/predictions/model"}, "nil"),
    ],
)
def test_default_among_several_models_is_that_of_the_variable_or_of_the_route(
    environ: dict[str, str], default: str
) -> None:
    text = render_nginx("a", "b", **environ)
    assert f'"a, b", {default})' in text
    assert text.count('location = "/predictions/b" {') == 1
    assert '"b, model", "model")' in render_nginx("b", "model")


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"DEFAULT_MODEL": "c"}, "DEFAULT_MODEL='c': expected one of a, b"),
        (
            {"DEFAULT_MODEL": "a", "AIP_PREDICT_ROUTE": "/predictions/b"},
            "DEFAULT_MODEL='a', but AIP_PREDICT_ROUTE is the route of the model b",
        ),
        ({"AIP_HEALTH_ROUTE": "/predictions/a"}, "AIP_HEALTH_ROUTE is the route of the model a"),
    ],
)
def test_variables_that_do_not_fit_several_models_are_refused(
    environ: dict[str, str], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        render_nginx("a", "b", **environ)


@pytest.mark.parametrize(
    ("environ", "present", "absent"),
    [
        (
            {},
            ['location = "/p:predict" {', 'X-Sent "";', "proxy_read_timeout 50s;"],
            ["syslog:", "/metrics", "X-From-Worker"],
        ),
        ({"METRICS_PORT": "9090"}, ["listen 0.0.0.0:9000 ", "listen 0.0.0.0:9090;"], ["syslog:"]),
        (OTLP, ['X-Sampled "$is_sampled"', '"~^.{16}(00|01|02)"'], []),
        (OTLP | {"OTEL_TRACES_SAMPLER_ARG": "0"}, ['"~^.{16}(00)"'], []),
        (OTLP | {"OTEL_TRACES_SAMPLER_ARG": "1.0"}, ["|fe|ff)"], ["|100"]),
        (OTLP | {"OTEL_TRACES_SAMPLER": "always_on"}, ['X-Sampled "1"'], []),
        (OTLP | {"OTEL_TRACES_EXPORTER": "none"}, ['X-Sampled "";', 'X-Sent "$msec"'], []),
        ({"INVOKE_ROUTE_PREFIX": "/*"}, ['location ~ "^/." {'], []),
        ({"RESPONSE_TIMEOUT_S": "7"}, ["proxy_read_timeout 7s;", "the limit of 7 s"], []),
        ({"REQUEST_PATH": "torchserve"}, ["keepalive 64;", "X-From-Worker"], []),
        ({"TORCHSERVE_PATCHES": "off"}, ["keepalive 64;"], ["X-From-Worker"]),
    ],
)
def test_nginx_configuration_follows_the_variables(
    environ: dict[str, str], present: list[str], absent: list[str]
) -> None:
    text = render_nginx(**environ)
    assert all(part in text for part in present)
    assert not any(part in text for part in absent)
    assert not re.search("@[A-Z_]+@", text)


@pytest.mark.parametrize(
    ("memory", "request_bytes", "count"),
    [
        (2 << 30, 10 << 20, 25),
        (2 << 30, 100 << 20, 2),
        (512 << 20, 100 << 20, 1),
        (None, 10 << 20, 102),
    ],
)
def test_large_requests_take_an_eighth_of_the_memory_at_most(
    memory: int | None, request_bytes: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "memory_limit", lambda: memory)
    assert f"limit_conn large {count};" in render_nginx(MAX_REQUEST_BYTES=str(request_bytes))


def test_direct_path_without_this_projects_worker_is_refused() -> None:
    with pytest.raises(ConfigError, match="REQUEST_PATH=direct needs this project's worker"):
        read_config(ROUTES | {"REQUEST_PATH": "direct", "TORCHSERVE_PATCHES": "off"}, "digits")


def test_nginx_errors_contain_only_method_and_path_of_the_request() -> None:
    request = ', client: 10.0.0.1, server: , request: "POST /p?key=secret HTTP/1.1", host: "h"'
    line = '*7 open() "/tmp/x" failed' + request
    assert nginx._redact(line) == '*7 open() "/tmp/x" failed (POST /p)'
    line = '*7 sent too long header line: "A: secret...' + request
    assert nginx._redact(line) == '*7 sent too long header line: "..." (POST /p)'
    line = '*7 it failed, client: 10.0.0.1, request: "GET http://user:secret@h/ HTTP/1.1"'
    assert nginx._redact(line) == "*7 it failed (GET)"
    assert nginx._redact("it begins\n") == "it begins"


def test_url_of_the_otlp_endpoint_is_neither_logged_nor_quoted_in_the_error() -> None:
    variable = "OTEL_EXPORTER_OTLP_ENDPOINT"
    config = read_config({variable: "http://user:secret@h:1"}, "digits")
    assert config.otlp
    assert "secret" not in repr(config) + str(config)
    with pytest.raises(ConfigError, match=f"^{variable}: expected http://HOST:PORT") as raised:
        read_config({variable: "user:secret@h:1"}, "digits")
    assert "secret" not in str(raised.value)


def test_every_variable_is_documented() -> None:
    docs = (ROOT / "docs" / "container.md").read_text()
    sources = [file.read_text() for file in (ROOT / "serving/container").glob("*.py")]
    names = {n for text in sources for n in re.findall(r'"([A-Z]+(?:_[A-Z]+)+)"', text)}
    templates = "".join(file.read_text() for file in nginx_config.FILES.glob("*.conf"))
    names -= set(re.findall("@([A-Z_]+)@", templates))
    assert len(names) > 8
    assert not [name for name in names if f"`{name}`" not in docs]


def test_documented_limits_are_the_configured_ones() -> None:
    docs = (ROOT / "docs" / "container.md").read_text()
    text = render_nginx()
    assert "max_conns=192;" in text
    assert "proxy_read_timeout 50s;" in text
    assert f"| instances in a request | {envelope.MAX_INSTANCES} |" in docs
    for limit in ("wait for a worker | 192 |", "response | 50 s, "):
        assert limit in docs
    stop_s = (
        entrypoint.SHUTDOWN_DELAY_S
        + entrypoint.DRAIN_TIMEOUT_S
        + entrypoint.TORCHSERVE_STOP_TIMEOUT_S
        + entrypoint.TELEMETRY_STOP_TIMEOUT_S
    )
    assert f"still answered for {entrypoint.SHUTDOWN_DELAY_S} s" in docs
    assert f"after at most {stop_s} s" in docs
