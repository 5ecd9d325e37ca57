"""The page's server: only the page can use it, and it forwards requests as they are."""

import json
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.http import JSON_TYPE, Endpoint, serve_cut_stream
from tests.images import ROOT, request_body
from tests.page.conftest import serve_page, write_archive
from tests.programs import Result, run_program

CLOSED = "http://127.0.0.1:9/predictions/toy"
"""No server listens on this port."""


def test_the_page_may_run_only_its_own_script_and_connect_only_to_its_server(toy_page: str) -> None:
    response = Endpoint(toy_page).send("GET", "/")
    policy = response.headers["content-security-policy"]
    assert response.code == 200
    assert "default-src 'none'; script-src 'sha256-" in policy
    assert "connect-src 'self'; frame-ancestors 'none'" in policy
    page = (ROOT / "authoring/page/index.html").read_text()
    assert page.count("<script") == 1
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").partition("<script>")[0]
    assert len(page.splitlines()) <= 560


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},
        {"Host": "attacker.example:8090", "Origin": "http://attacker.example:8090"},
        {"Origin": "http://attacker.example"},
        {"Origin": "null"},
    ],
)
def test_another_site_gets_403_on_every_route(toy_page: str, headers: dict[str, str]) -> None:
    page = Endpoint(toy_page)
    for path in ("/", "/model.json"):
        assert page.send("GET", path, headers=headers).code == 403
    response = page.send("POST", "/predict", b'{"instances": []}', headers | JSON_TYPE)
    assert (response.code, response.body) == (403, "only this page may use this server")


def test_a_form_of_another_site_cannot_post(toy_page: str) -> None:
    headers = {"Content-Type": "text/plain"}
    assert Endpoint(toy_page).send("POST", "/predict", b"{}", headers).code == 404


def test_localhost_is_the_same_server(toy_page: str) -> None:
    host = f"localhost:{urlsplit(toy_page).port}"
    headers = {"Host": host, "Origin": f"http://{host}"}
    assert Endpoint(toy_page).send("GET", "/model.json", headers=headers).code == 200


def test_status_body_and_milliseconds_of_the_model_are_forwarded(toy_page: str) -> None:
    response = Endpoint(toy_page).send("POST", "/predict", request_body(1), JSON_TYPE)
    assert response.code == 400
    assert json.loads(response.body)["error"]["status"] == "INVALID_ARGUMENT"
    assert response.headers["server-timing"].startswith("predict;dur=")


def test_a_stopped_model_server_is_named_with_the_command_that_starts_it(tmp_path: Path) -> None:
    archive = write_archive(tmp_path, "toy", requests=[{"instance": 1}] * 2)
    with serve_page(archive, CLOSED) as address:
        response = Endpoint(address).send("POST", "/predict", request_body(1), JSON_TYPE)
    assert response.code == 502
    assert f"cannot connect to {CLOSED}; start the server with: make serve" in response.body


def test_a_stream_that_is_cut_ends_with_an_error(tmp_path: Path) -> None:
    archive = write_archive(tmp_path, "toy", requests=[{"instance": 1}] * 2)
    part = b'{"instance": 0, "part": "a"}\n'
    with (
        serve_cut_stream(part) as address,
        serve_page(archive, f"http://{address}/predictions/toy") as page,
    ):
        response = Endpoint(page).send("POST", "/predict", request_body(1, stream=True), JSON_TYPE)
    first, last = (json.loads(line) for line in response.body.splitlines())
    assert (response.code, first["part"]) == (200, "a")
    assert "the stream was interrupted" in last["error"]["message"]


def test_an_archive_without_requests_gets_a_page_too(tmp_path: Path) -> None:
    with serve_page(write_archive(tmp_path, "stock"), CLOSED) as address:
        model = json.loads(Endpoint(address).send("GET", "/model.json").body)
    [request] = model["requests"]
    assert model["explains"] is False
    assert json.loads(request["body"]) == {"instances": [None]}
    assert model["schema"] is None


def run_page(folder: Path, *arguments: str) -> Result:
    """Run the program in a folder of its own, so that there is no build/ of another model."""
    command = [sys.executable, "-m", "authoring.page", "--no-browser", *arguments]
    return run_program(command, {"PYTHONPATH": str(ROOT)}, cwd=folder, timeout_s=60)


def test_a_model_without_an_archive_is_an_error_with_the_command(tmp_path: Path) -> None:
    (tmp_path / "flowers").mkdir()
    (tmp_path / "flowers" / "model.py").touch()
    result = run_page(tmp_path, "--model", "flowers")
    assert result.code == 1
    message = "build/flowers/flowers.mar does not exist: make archive MODEL=flowers"
    assert result.err == f"authoring.page: {message}\n"


def test_an_unknown_model_is_an_error_of_one_line(tmp_path: Path) -> None:
    result = run_page(tmp_path, "--model", "no-such-model")
    assert result.code == 1
    assert result.err.startswith("authoring.page: MODEL=no-such-model")
    assert result.err.count("\n") == 1
