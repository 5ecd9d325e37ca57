"""The container's settings, decided without starting one."""

import re
from pathlib import Path

import pytest

from handler import envelope
from serving import torchserve
from serving.container import config, entrypoint, nginx
from serving.container.config import ConfigError
from serving.resources import Layout
from tests import images
from tests.images import ROOT

ROUTES = {"AIP_HEALTH_ROUTE": "/h", "AIP_PREDICT_ROUTE": "/p:predict", "AIP_HTTP_PORT": "9000"}


IDS = {"AIP_ENDPOINT_ID": "123", "AIP_DEPLOYED_MODEL_ID": "456"}
OF_VERTEX = "/v1/endpoints/123/deployedModels/456"
STORAGE = {"AIP_STORAGE_URI": "gs://bucket/folder"}


@pytest.mark.parametrize(
    ("environ", "port", "health", "predict"),
    [
        (ROUTES, 9000, "/h", "/p:predict"),
        (IDS, 8080, OF_VERTEX, f"{OF_VERTEX}:predict"),
        ({}, 8080, "/ping", "/predictions/digits"),
        (STORAGE, 8080, "/ping", "/predictions/model"),  # as Google's prebuilt images do
    ],
)
def test_routes_are_those_of_the_variables_else_vertex_s_own_defaults(
    environ: dict[str, str], port: int, health: str, predict: str
) -> None:
    found = config.read(environ, "digits")
    assert found[:4] == (port, health, predict, 10485760)
    assert found.storage == environ.get("AIP_STORAGE_URI")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AIP_HTTP_PORT", "0"),
        ("AIP_HTTP_PORT", "65536"),
        ("AIP_HTTP_PORT", "80a"),
        ("AIP_HEALTH_ROUTE", "ping"),
        ("AIP_HEALTH_ROUTE", "/p:predict"),
        ("AIP_PREDICT_ROUTE", '/x" { return 200; } location "/y'),
        ("AIP_PREDICT_ROUTE", "/$request_uri"),
        ("AIP_PREDICT_ROUTE", "/a//b"),
        ("AIP_PREDICT_ROUTE", "/a/../b"),
        ("INVOKE_ROUTE_PREFIX", "/v1/*"),
        ("MAX_REQUEST_BYTES", "-1"),
        ("MAX_REQUEST_BYTES", "1000000000"),
        ("ACCESS_LOG", "some"),
        ("METRICS_PORT", "off"),
        ("METRICS_PORT", "9000"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
    ],
)
def test_a_variable_that_cannot_be_followed_is_named(variable: str, value: str) -> None:
    with pytest.raises(ConfigError, match=variable):
        config.read(ROUTES | {variable: value}, "digits")


def nginx_s_settings(**environ: str) -> str:
    settings = torchserve.Settings(images.ARCHIVE, Path("/run/x"), Layout(2, 1), "unix:/s")
    return nginx.settings_text(config.read(ROUTES | environ, "digits"), settings, Path("/s"))


@pytest.mark.parametrize(
    ("environ", "there", "not_there"),
    [
        (
            {},
            ['location = "/p:predict" {', 'X-Sent "";', "limit_conn large 10;"],
            ["syslog:", "/metrics"],
        ),
        ({"METRICS_PORT": "9090"}, ["listen 0.0.0.0:9000 ", "listen 0.0.0.0:9090;"], ["syslog:"]),
        ({"INVOKE_ROUTE_PREFIX": "/*"}, ['location ~ "^/." {'], []),
        ({"MAX_REQUEST_BYTES": "100000000"}, ["limit_conn large 1;"], []),
    ],
)
def test_nginx_is_configured_as_the_variables_say(
    environ: dict[str, str], there: list[str], not_there: list[str]
) -> None:
    text = nginx_s_settings(**environ)
    assert all(part in text for part in there)
    assert not any(part in text for part in not_there)
    assert not re.search("@[A-Z_]+@", text)


def test_of_what_nginx_tells_of_a_request_its_method_and_path_are_left() -> None:
    about = ', client: 10.0.0.1, server: , request: "POST /p?key=secret HTTP/1.1", host: "h"'
    told = '*7 open() "/tmp/x" failed' + about
    assert nginx._without_what_was_sent(told) == '*7 open() "/tmp/x" failed (POST /p)'
    told = '*7 sent too long header line: "A: secret...' + about
    assert nginx._without_what_was_sent(told) == '*7 sent too long header line: "..." (POST /p)'
    told = '*7 it failed, client: 10.0.0.1, request: "GET http://user:secret@h/ HTTP/1.1"'
    assert nginx._without_what_was_sent(told) == "*7 it failed (GET)"
    assert nginx._without_what_was_sent("it begins\n") == "it begins"


def test_where_metrics_are_sent_to_is_not_told_with_the_settings() -> None:
    variable = "OTEL_EXPORTER_OTLP_ENDPOINT"
    assert "secret" not in repr(config.read({variable: "http://user:secret@h:1"}, "digits"))
    with pytest.raises(ConfigError) as raised:
        config.read({variable: "user:secret@h:1"}, "digits")
    assert "secret" not in str(raised.value)


def test_every_variable_that_is_read_is_in_the_docs() -> None:
    docs = (ROOT / "docs" / "container.md").read_text()
    sources = [file.read_text() for file in (ROOT / "serving/container").glob("*.py")]
    names = {n for text in sources for n in re.findall(r'"([A-Z]+(?:_[A-Z]+)+)"', text)}
    names -= set(re.findall("@([A-Z_]+)@", nginx.TEMPLATE.read_text()))
    assert len(names) > 8
    assert not [name for name in names if f"`{name}`" not in docs]


def test_the_docs_say_the_limits_that_hold() -> None:
    docs = (ROOT / "docs" / "container.md").read_text()
    text = nginx_s_settings()
    assert "max_conns=192;" in text
    assert "limit_conn medium 107;" in text
    assert f"| instances in a request | {envelope.MAX_INSTANCES} |" in docs
    for limit in ("at once | 192 |", "100 kB and more | 107 |", "not told | 10, "):
        assert limit in docs
    stop_s = entrypoint.LEAVE_S + entrypoint.DRAIN_S + entrypoint.GRACE_S + entrypoint.LAST_S
    assert stop_s == 24
    assert f"still answered for {entrypoint.LEAVE_S} s" in docs
