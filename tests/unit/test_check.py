"""`make check`: a model without a fault passes, and each fault is found with the line to fix."""

import json
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from authoring import expected, imports
from handler.comparison import find_differences
from tests.images import ARCHIVE, ROOT, TOY
from tests.programs import Result, run_program

MODEL = """
import torch
from task import BadInstance

def load(folder, device):
    return Model()

class Model:
    calls = 0

    def preprocess(self, instance, parameters):
        if not isinstance(instance, list):
            raise BadInstance("expected an array")
        return torch.tensor(instance or [0.0], dtype=torch.float32)

    def size(self, sample):
        return 1

    def collate(self, samples):
        return torch.stack([sample.sum() for sample in samples])

    def inference(self, batch):
        self.calls += 1
        return batch * 2

    def postprocess(self, output, parameters):
        return {"double": output.item()}
"""
REQUESTS = [
    {"instance": [1.0, 2.0], "expected": {"double": 6.0}},
    {"instance": [4.0], "expected": {"double": 8.0}},
]


def write_model(folder: Path, source: str = MODEL, requests: Any = REQUESTS, **files: str) -> Path:
    """Write a model's folder in `folder` and return its path."""
    path = folder / "doubling"
    path.mkdir()
    (path / "model.py").write_text(source)
    (path / "requests.json").write_text(json.dumps(requests))
    for name, text in files.items():
        (path / f"{name}.py").write_text(text)
    return path


def check(path: Path, *options: str) -> Result:
    """Run the program beside the model, so that its build/ is not that of another test."""
    command = [sys.executable, "-m", "authoring.check", str(path), *options]
    cwd = path.parent if path.parent.exists() else ROOT
    return run_program(command, {"PYTHONPATH": str(ROOT)}, cwd=cwd)


def test_a_model_without_a_fault_passes(tmp_path: Path) -> None:
    source = MODEL.replace("return Model()", "print('loaded'); return Model()")
    path = write_model(tmp_path, source, train="", helper="")
    result = check(path)
    assert result.code == 0, result
    assert "FAIL" not in result.out
    assert result.err == ""
    assert "NOTE  not in the archive: train.py\n" in result.out
    assert result.out.splitlines()[-1] == f"all checks passed; next: make serve MODEL={path}"
    assert 'instance: {"type": "array", "items": {"type": "number"}}' in result.out
    assert ", with one thread; batching " in result.out
    assert "NOTE  these instances get a prediction: []\n" in result.out


BATCH = "return batch * 2"
OUTPUT = 'return {"double": output.item()}'
SAMPLE = "return torch.tensor(instance or [0.0], dtype=torch.float32)"
FULL = pytest.mark.full
ALONE, AGAIN = "each request gets a prediction", "the same request gets the same prediction again"
TOGETHER = "a batch gets the predictions that its requests get alone"


@pytest.mark.parametrize(
    ("line", "other", "text", "detail"),
    [
        pytest.param(
            *(BATCH, "return batch * 2 + self.calls", AGAIN),
            "requests.json[0]: double: expected 7.0, got ",
            id="a prediction depends on earlier requests",
        ),
        pytest.param(
            *(BATCH, "return batch * 2 + torch.arange(len(batch))", TOGETHER),
            "requests.json[1], in order: double: expected 8.0, got 9.0",
            id="a prediction depends on the place in the batch",
        ),
        pytest.param(
            *(BATCH, "return batch * 2 + batch.max()", TOGETHER),
            "requests.json[0], in order: double: expected 9.0, got 10.0",
            id="a prediction depends on the other samples",
            marks=FULL,
        ),
        pytest.param(
            *(BATCH, "return batch[:1] * 2", TOGETHER),
            "500: OutputError: inference returned 1 values (Tensor of shape (1,)) for 2 samples",
            id="inference returns another number of outputs",
        ),
        pytest.param(
            *(BATCH, "return batch * 3", "the predictions are the expected ones"),
            "requests.json[0]: double: expected 6.0, got 9.0",
            id="a prediction is not the expected one",
            marks=FULL,
        ),
        pytest.param(
            *(OUTPUT, 'return {"double": float("nan")}', ALONE),
            "double is NaN, which JSON cannot represent",
            id="a prediction is NaN",
        ),
        pytest.param(
            *(OUTPUT, 'return {"double": {1, 2}}', ALONE),
            "double is of type set; expected ",
            id="a prediction is not JSON",
            marks=FULL,
        ),
        pytest.param(
            *(SAMPLE, "return torch.tensor(instance[:1] + [sum(instance) - instance[0]])"),
            "wrong instances get a 4xx, not a 500",
            "[]: 500: {place}: IndexError: list index out of range",
            id="an instance of the right type gets a 500",
        ),
        pytest.param(
            *(SAMPLE, "return torch.nn.functional.softmax(torch.tensor(instance or [0.0]), 0)"),
            "variants of the first instance get no 500",
            "its numbers are integers: 500: {place}: NotImplementedError: ",
            id="an instance of integers is not converted to floats",
        ),
        pytest.param(
            *(OUTPUT, 'return {"double": output.item(), **{n: {}[n] for n in parameters}}'),
            "wrong parameters get no 500",
            "{{\"no_such_name\": 1}}: 500: {place}: KeyError: 'no_such_name'",
            id="a parameter gets a 500",
        ),
        pytest.param(
            *(BATCH, "import os; os._exit(3)", ALONE),
            "exit code 3",
            id="the process ends",
            marks=FULL,
        ),
        pytest.param(
            *(SAMPLE, "return torch.zeros(2_000_000_000 if len(instance) > 1000 else 1)"),
            "an instance of 1,000,000 characters gets a prediction or a 4xx",
            "it: 503: {place}: RuntimeError: ",
            id="a huge instance takes more memory than there may be",
            marks=FULL,
        ),
        pytest.param(
            *("return Model()", "raise OSError('no weights')", "the model loads from"),
            "{place}: OSError: no weights",
            id="load fails",
        ),
        pytest.param(
            *("return Model()", "open(folder / 'weights.pt')", "the model loads from"),
            "{place}: FileNotFoundError: [Errno 2] No such file or directory: '{path}/weights.pt'",
            id="the weights are not in the folder",
        ),
        pytest.param(
            *("return Model()", "return Model(", "the model loads from"),
            "{place}: SyntaxError: '(' was never closed",
            id="a syntax error",
            marks=FULL,
        ),
        pytest.param(
            *("import torch", "import torch, no_such_package", "the model loads from"),
            "add the package that provides no_such_package to requirements.txt",
            id="a package is not installed",
        ),
        pytest.param(
            *("import torch", "import torch, pytest", "what the model imports is in the image"),
            "model.py:2: pytest is neither in the image nor in requirements.txt: add pytest==",
            id="a package is installed here but not in the image",
        ),
        pytest.param(
            *("    calls = 0", "    def stream(self, sample, parameters): yield {1}"),
            "the stream ends, and each of its parts is JSON",
            "requests.json[0]: EncodingError: the prediction is of type set",
            id="a part of the stream is not JSON",
        ),
        pytest.param(
            *("    calls = 0", "    def explain(self, sample, parameters): return {1}"),
            "each prediction has an explanation, which is JSON",
            "requests.json[0]: 500: EncodingError: the prediction is of type set",
            id="an explanation is not JSON",
        ),
        pytest.param(
            *(
                "    calls = 0",
                "    def stream(self, sample, parameters):\n        while True: yield 1",
            ),
            "the stream ends, and each of its parts is JSON",
            "requests.json[0]: no end after 10000 parts",
            id="the stream does not end",
            marks=FULL,
        ),
    ],
)
def test_each_fault_fails_its_check_with_the_line_to_fix(
    tmp_path: Path, line: str, other: str, text: str, detail: str
) -> None:
    assert MODEL.count(line) == 1
    source = MODEL.replace(line, other)
    path = write_model(tmp_path, source)
    result = check(path)
    place = f"{path}/model.py:{source[: source.index(other)].count(chr(10)) + 1}"
    assert result.code == 1, result.out
    assert f"FAIL  {text}" in result.out
    assert detail.format(place=place, path=path) in result.out
    assert result.out.splitlines()[-1].endswith(
        f"fix them and run make check MODEL={path} again"
    ) or ("ARGS=--write=all" in result.out.splitlines()[-1])
    assert result.err == ""


def test_raw_bodies_are_sent_where_a_request_has_an_instance_for_them(tmp_path: Path) -> None:
    source = MODEL.replace("calls = 0", 'calls, accepts = 0, ("audio/wav", "image/*", "text/csv")')
    decodes = """isinstance(instance, dict):
            instance = [2.0]
        elif isinstance(instance, bytes):
            instance = {}[instance]
        elif not isinstance(instance, list):"""
    source = source.replace("not isinstance(instance, list):", decodes)
    request = {"instance": {"b64": "AAAA"}, "expected": {"double": 4.0}}
    result = check(write_model(tmp_path, source, [*REQUESTS, request]))
    assert "FAIL  raw bodies get the predictions of JSON (audio/wav, image/*)" in result.out
    assert "KeyError: b'\\x00\\x00\\x00'" in result.out
    assert "NOTE  no request has an instance to send as text/csv" in result.out


@pytest.mark.full
def test_a_huge_instance_that_takes_too_long_fails_after_all_other_checks(tmp_path: Path) -> None:
    slow = "import time; time.sleep(len(instance) / 1000); return torch.zeros(1)"
    result = check(write_model(tmp_path, MODEL.replace(SAMPLE, slow)))
    assert "it is not done after 30 s" in result.out
    assert "PASS  what the model imports" in result.out


def test_an_empty_expected_is_no_check_and_is_reported(tmp_path: Path) -> None:
    requests = [{"instance": [1.0], "expected": {}}, {"instance": [2.0]}]
    path = write_model(tmp_path, requests=requests)
    result = check(path)
    assert result.code == 0
    note = "NOTE  requests without `expected`, or with an empty one, are not compared\n"
    assert f"{note}      requests.json[0]\n      requests.json[1]\n" in result.out
    assert result.out.splitlines()[-1].endswith(
        f"make check MODEL={path} ARGS=--write writes the predictions as `expected`"
    )


def test_a_missing_requests_file_fails_with_what_is_expected(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    (path / "requests.json").unlink()
    result = check(path)
    assert result.code == 1
    assert f"{path}/requests.json does not exist; expected [" in result.out


def test_an_archive_and_the_toy_pass(tmp_path: Path) -> None:
    for path in (ARCHIVE, TOY):
        shutil.copytree(TOY, tmp_path / "toy") if path == TOY else shutil.copy(path, tmp_path)
        result = check(tmp_path / path.name)
        assert result.code == 0, result.out
        assert "FAIL" not in result.out


def test_an_unknown_model_is_an_error_of_one_line() -> None:
    result = check(Path("no-such-model"))
    assert result.code == 1
    assert result.err.startswith("authoring.check: MODEL=no-such-model: no folder no-such-model; ")
    assert result.err.count("\n") == 1


def test_write_fills_in_only_missing_predictions_and_keeps_the_file(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    first = '{"instance": [1.0, 2.0], "expected": {"double": 6.01}, "tolerance": 0.01}'
    text = f'[\n{first},\n{{"instance": [0.123456789]}}\n]\n'
    (path / "requests.json").write_text(text)
    result = check(path, "--write")
    assert result.code == 0, result.out
    assert (
        f"NOTE  wrote the expected predictions of 1 requests to {path}/requests.json" in result.out
    )
    assert result.out.splitlines()[-1] == f"all checks passed; next: make serve MODEL={path}"
    added = '{"instance": [0.123456789], "expected": {"double": 0.24691}}'
    assert (path / "requests.json").read_text() == text.replace(
        '{"instance": [0.123456789]}', added
    )


def test_a_differing_expected_prediction_is_replaced_only_by_write_all(tmp_path: Path) -> None:
    path = write_model(tmp_path, MODEL.replace(BATCH, "return batch * 3"))
    before = (path / "requests.json").read_text()
    result = check(path, "--write")
    assert result.code == 1
    assert result.out.splitlines()[-1].endswith("ARGS=--write=all")
    assert (path / "requests.json").read_text() == before
    assert check(path, "--write=all").code == 0
    assert json.loads((path / "requests.json").read_text())[0]["expected"] == {"double": 9.0}
    assert check(path).code == 0


def test_nothing_is_written_if_the_predictions_change(tmp_path: Path) -> None:
    requests = [{"instance": [1.0]}, {"instance": [2.0]}]
    path = write_model(tmp_path, MODEL.replace(BATCH, "return batch + self.calls"), requests)
    result = check(path, "--write")
    assert "requests.json is not changed: the predictions change" in result.out
    assert json.loads((path / "requests.json").read_text()) == requests


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 0.1, 0])
@pytest.mark.parametrize(
    "prediction",
    [
        {"label": "a", "scores": {"a": 0.987654321, "b": 0.000012345}},
        [0.0123456789, -0.3456789, 1e-9],
        [[1234.56789, 0.001], [3, 4.5]],
        {"boxes": [{"box": [1, 2, 3, 4], "score": 0.333333333}]},
        98765.4321,
        "text",
        None,
    ],
)
def test_rounded_predictions_equal_the_predictions_well_within_the_tolerance(
    prediction: Any, tolerance: float
) -> None:
    rounded = expected.round_prediction(prediction, tolerance)
    assert find_differences(prediction, rounded, tolerance / 10) == []
    assert len(json.dumps(rounded)) <= len(json.dumps(prediction))


def test_rounding_leaves_the_digits_that_the_tolerance_needs() -> None:
    embedding = [0.0512345678, -0.0312345678]
    assert expected.round_prediction(embedding, 1e-3) == [0.051235, -0.031235]
    assert expected.round_prediction({"score": 0.995828032}, 1e-3) == {"score": 0.99583}


def test_an_indented_requests_file_stays_indented(tmp_path: Path) -> None:
    file = tmp_path / "requests.json"
    first = '  {\n    "instance": "é"\n  }'
    file.write_text(f'[\n{first},\n  {{"instance": 1.0}}\n]\n')
    expected.write_expected(file, {0: {"scores": [0.5, 0.25]}, 1: "a"})
    filled = '  {\n    "instance": "é",\n    "expected": {\n      "scores": [0.5, 0.25]\n    }\n  }'
    assert file.read_text() == f'[\n{filled},\n  {{"instance": 1.0, "expected": "a"}}\n]\n'


def write_imports(folder: Path, text: str) -> Path:
    (folder / "model.py").write_text(text)
    (folder / "network.py").write_text("from . import other\nimport network_two.part\n")
    (folder / "network_two").mkdir()
    return folder


def test_the_imports_of_a_model_are_those_of_its_own_files(tmp_path: Path) -> None:
    text = """
import json, torch.nn
from task import images
from network import Net
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import only_for_types
try:
    import fast
except ImportError:
    fast = None

def load(folder, device):
    import late
"""
    direct = imports.DirectImports(write_imports(tmp_path, text))
    assert direct.required == {"torch": "model.py:2", "task": "model.py:3", "late": "model.py:14"}
    assert set(direct.optional) == {"fast"}


def test_a_module_of_no_known_package_gets_no_advice_to_install_its_name(tmp_path: Path) -> None:
    folder = write_imports(tmp_path, "import cv2_like_module\n")
    failures, notes = imports.find_missing(folder, [], imports.read_image_packages())
    advice = "add the package that provides cv2_like_module"
    assert failures == [
        f"model.py:1: cv2_like_module is neither in the image nor in requirements.txt: {advice}"
    ]
    assert notes == []


def test_requirements_and_what_they_require_are_in_the_image(tmp_path: Path) -> None:
    folder = write_imports(tmp_path, "import sklearn, scipy, PIL, numpy\n")
    image = imports.read_image_packages()
    failures, _ = imports.find_missing(folder, [], image)
    version = metadata.version("scikit-learn")
    assert [each.partition(": ")[2].partition(" is")[0] for each in failures] == [
        "sklearn",
        "scipy",
    ]
    assert failures[0].endswith(f"add scikit-learn=={version}")
    hashed = f"scikit_learn=={version} \\\n    --hash=sha256:0  # the classifier\n-r more.txt\n"
    (folder / "requirements.txt").write_text(hashed)
    assert imports.find_missing(folder, [], image) == ([], [])


def test_modules_of_other_packages_are_only_noted(tmp_path: Path) -> None:
    folder = write_imports(tmp_path, "import torch\n")
    failures, [note] = imports.find_missing(
        folder, ["scipy", "yaml"], imports.read_image_packages()
    )
    assert failures == []
    assert note.endswith("the model has to work without: scipy")


def test_uninstalled_requirements_are_found(tmp_path: Path) -> None:
    lines = "no-such-package\npytest==1.0\nnumpy\nother; sys_platform == 'win32'\n./local-1.0-py3-none-any.whl\n"
    (tmp_path / "requirements.txt").write_text(lines)
    version = metadata.version("pytest")
    assert list(imports.find_uninstalled(tmp_path)) == [
        "no-such-package is not installed",
        f"pytest==1.0: version {version} is installed",
        "local is not installed",
    ]
