"""make migrate: an archive is tried in the image, and the result decides what is reported."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.container.conftest import DOCKER
from tests.images import ROOT
from tests.stock import archive as stock
from tests.torchserve.test_stock import SAME

pytestmark = pytest.mark.xdist_group("storage")

HANDLER = """
class Handler:
    def initialize(self, context):
        self.ready = {initialize}

    def handle(self, data, context):
        {handle}
        return ["ok" for _ in data]
"""
WHOLE_MODEL = """
import pathlib, torch

class Handler:
    def initialize(self, context):
        folder = pathlib.Path(context.system_properties["model_dir"])
        self.model = torch.load(folder / "whole.pt")

    def handle(self, data, context):
        return ["ok" for _ in data]
"""


def migrate(
    archive: Path, image: str, *options: str, environ: Mapping[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the document of make migrate."""
    command = [sys.executable, "-m", "serving.stock", str(archive), "--json"]
    done = subprocess.run(
        [*command, "--docker", DOCKER, "--image", image, *options],
        cwd=ROOT,
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (document["verdict"] == "FAILS"), document
    return done.returncode, document


def pack(folder: Path, initialize: str = "True", handle: str = "pass") -> Path:
    handler = folder / "own_handler.py"
    handler.write_text(HANDLER.format(initialize=initialize, handle=handle))
    return stock.pack(folder, handler)


def write_request(folder: Path, content: bytes = SAME["one picture"]) -> tuple[str, str]:
    (folder / "request.json").write_bytes(content)
    return "--request", str(folder / "request.json")


def test_archive_that_answers_works_and_gets_the_commands(image: str, tmp_path: Path) -> None:
    code, document = migrate(stock.pack(tmp_path), image, *write_request(tmp_path))
    assert (code, document["verdict"]) == (0, "works"), document
    tried = document["trial"]
    assert tried["place"] == f"in the image {image}"
    assert list(json.loads(tried["response"]["body"])) == ["predictions"]
    assert document["commands"]["serve here"] == f"make serve STORAGE={tmp_path}"
    assert f"IMAGE={image}" in document["commands"]["serve in the image"]
    assert "make deploy-endpoint" in document["commands"]["cloud"]


def test_module_that_only_this_machine_has_is_a_missing_package(image: str, tmp_path: Path) -> None:
    archive = pack(tmp_path, "__import__('sklearn') and __import__('pandas')")
    code, document = migrate(archive, image)
    assert (code, document["requirements"]) == (1, ["scikit-learn"]), document
    assert "No module named 'sklearn'" in document["trial"]["description"]
    assert "own_handler.py:4" in document["trial"]["description"]
    file = tmp_path / "requirements.txt"
    assert document["commands"]["add packages"] == f"printf '%s\\n' scikit-learn >> {file}"
    assert document["commands"]["image of its own"] == f"make build MODEL={archive}"


def test_failed_request_is_reported_with_the_line_of_the_archive(
    image: str, tmp_path: Path
) -> None:
    archive = pack(tmp_path, handle="raise RuntimeError('a wrong shape')")
    code, document = migrate(archive, image, *write_request(tmp_path))
    assert code == 1
    text = document["trial"]["description"]
    assert text.endswith(": RuntimeError: a wrong shape (own_handler.py:7)")


def test_finding_of_reading_does_not_fail_an_archive_that_answers(
    image: str, tmp_path: Path
) -> None:
    (tmp_path / "helper.py").write_text("if False:\n    import missing_package\n")
    handler = tmp_path / "own_handler.py"
    handler.write_text("import helper\n" + HANDLER.format(initialize="True", handle="pass"))
    archive = stock.pack(tmp_path, handler, f"--extra-files={tmp_path / 'helper.py'}")
    code, document = migrate(archive, image, *write_request(tmp_path))
    assert (code, document["verdict"]) == (0, "works"), document
    assert "FAILS" not in [finding["state"] for finding in document["findings"]]


def test_handler_that_writes_to_its_home_and_sets_a_status_works(
    image: str, tmp_path: Path
) -> None:
    write = "__import__('os').makedirs(__import__('os').path.expanduser('~/.cache/x'))"
    archive = pack(tmp_path, write, "context.set_response_status(404, 'unknown customer', 0)")
    code, document = migrate(archive, image, *write_request(tmp_path))
    assert (code, document["trial"]["state"]) == (0, "check"), document
    assert "the response is 404" in document["trial"]["description"]


def test_stream_is_shown_as_it_is(image: str, tmp_path: Path) -> None:
    archive = stock.pack(tmp_path, Path(stock.__file__).with_name("streaming_handler.py"))
    request = write_request(tmp_path, b'{"instances": ["stream"]}')
    code, document = migrate(archive, image, *request)
    assert code == 0, document
    assert document["trial"]["response"]["parts"] > 1
    assert 'first{"predictions": ["str stream"]}' in document["trial"]["response"]["body"]


def test_pickle_of_a_whole_model_needs_a_variable_that_is_named(image: str, tmp_path: Path) -> None:
    import torch  # noqa: PLC0415  slow to import

    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    handler = tmp_path / "own_handler.py"
    handler.write_text(WHOLE_MODEL)
    archive = stock.pack(tmp_path, handler, f"--extra-files={tmp_path / 'whole.pt'}")
    variable = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    code, document = migrate(archive, image)
    assert code == 1
    tried = document["trial"]
    assert f"{variable}=1" in tried["description"] + tried["hint"]
    code, document = migrate(archive, image, environ={variable: "1"})
    assert code == 0, document
    assert document["commands"]["serve here"].startswith(f"{variable}=1 make serve")
    assert document["commands"]["cloud variable"] == f'in [env] of deploy.toml: {variable} = "1"'


def test_archive_that_needs_a_network_is_tried_with_one(image: str, tmp_path: Path) -> None:
    lookup = "__import__('socket').getaddrinfo('unknown.invalid', 80)"
    code, document = migrate(pack(tmp_path, lookup), image)
    assert code == 1
    findings = [finding["description"] for finding in document["findings"]]
    assert "it needs a network to load or to answer" in findings


def test_archive_without_a_compiler_gets_another_backend_as_advice(
    image: str, tmp_path: Path
) -> None:
    archive = pack(tmp_path, handle=COMPILED)
    code, document = migrate(archive, image, *write_request(tmp_path))
    assert code == 1
    assert "aot_eager" in document["trial"]["hint"], document


COMPILED = "__import__('torch').compile(lambda x: x + 1)(__import__('torch').ones(2))"


def test_archive_of_another_format_is_tried_as_it_is(image: str, tmp_path: Path) -> None:
    archive = stock.pack(tmp_path)
    folder = tmp_path / "unpacked"
    (tmp_path / "alone").mkdir()
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    packed = Path(shutil.make_archive(str(tmp_path / "alone" / "v1.0"), "gztar", folder))
    for other in (packed, folder):
        code, document = migrate(other, image, *write_request(tmp_path))
        assert (code, document["trial"]["response"]["status"]) == (0, 200), document
        storage = other if other.is_dir() else other.parent
        assert document["commands"]["serve here"] == f"make serve STORAGE={storage}"
        own = f"make build MODEL={other}"
        assert document["commands"]["image of its own"] == own


def test_damaged_archive_fails_with_its_reason(image: str, tmp_path: Path) -> None:
    (tmp_path / "model.mar").write_bytes(stock.pack(tmp_path).read_bytes()[:2000])
    code, document = migrate(tmp_path / "model.mar", image)
    assert code == 1
    assert "is incomplete: the end of the archive is missing" in document["summary"]
