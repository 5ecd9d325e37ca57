"""The findings of `make migrate` about an archive's files."""

import argparse
import codecs
import io
import json
import pickle
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from serving.errors import ArchiveError
from serving.stock import inspect
from serving.stock.inspect import Finding
from serving.stock.outcome import Outcome, find_cause
from serving.stock.verdict import combine
from tests.images import ROOT
from tests.programs import run_program

HANDLER = """
import json
import torch
from PIL import Image
from ts.torch_handler.base_handler import BaseHandler

class Handler(BaseHandler):
    def preprocess(self, data):
        return torch.tensor([row for row in data])
"""
FUNCTION = "def handle(data, context):\n    return data and [str(row) for row in data]\n"

Files = Mapping[str, str | bytes]


def inspect_files(tmp_path: Path, files: Files, **manifest: str) -> list[Finding]:
    """Inspect an archive of these files."""
    path = tmp_path / "model.mar"
    model = {"modelName": "model", "handler": "handler.py", **manifest}
    if "requirements.txt" in files:
        model["requirementsFile"] = "requirements.txt"
    if "model-config.yaml" in files:
        model["configFile"] = "model-config.yaml"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": model}))
        for name, content in {"handler.py": HANDLER, **files}.items():
            archive.writestr(name, content)
    return list(inspect.inspect_archive(inspect.read_archive(path)))


def check_reported(findings: list[Finding], reasons: list[str]) -> None:
    """Assert that these reasons are reported, each with its state in front, and no others."""
    words = {False: "FAILS", None: "check"}
    bad = [
        f"{words[found.works]} {found.description} | {found.hint} | {found.requirement}"
        for found in findings
        if found.works is not True
    ]
    for reason in reasons:
        parts = reason.split(" … ")
        assert any(
            text.startswith(parts[0]) and all(part in text for part in parts) for text in bad
        ), bad
    assert len(bad) == len(reasons), bad


def zipped(name: str) -> bytes:
    """Return a zip file with one empty file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, "")
    return file.getvalue()


IMPORTS: dict[str, tuple[Files, list[str]]] = {
    "none that is missing": ({}, []),
    "an optional one": (
        {
            "handler.py": "try:\n    import torch_xla\nexcept ImportError:\n    torch_xla = None\n"
            + FUNCTION
        },
        [],
    ),
    "one in a try that raises again": (
        {
            "handler.py": "try:\n    import transformers\nexcept ImportError:\n    raise\n"
            + FUNCTION
        },
        [
            "check import transformers (handler.py:2), in a function or a condition: not in the image"
        ],
    ),
    "one for type checkers": (
        {
            "handler.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pandas\n"
            + FUNCTION
        },
        [],
    ),
    "known packages, in the handler and in its files": (
        {"handler.py": f"import cv2, helper\n{FUNCTION}", "helper.py": "import transformers"},
        [
            "FAILS import cv2 (handler.py:1): not in the image | write opencv-python-headless in "
            "requirements.txt beside the archive … | opencv-python-headless",
            "FAILS import transformers (helper.py:1): not in the image … | transformers",
        ],
    ),
    "a package whose name is not known": (
        {"handler.py": f"import my_tools\n{FUNCTION}"},
        ["FAILS import my_tools (handler.py:1) … write the package that provides my_tools in"],
    ),
    "a module of a package in the image": (
        {"handler.py": f"from google.cloud import storage\nimport google.auth\n{FUNCTION}"},
        [],
    ),
    "a module of another package with the same namespace": (
        {"handler.py": f"from google.cloud import bigquery\n{FUNCTION}"},
        ["FAILS import google.cloud.bigquery (handler.py:1) … | google-cloud-bigquery"],
    ),
    "pkg_resources, which setuptools no longer has": (
        {"handler.py": f"import pkg_resources\n{FUNCTION}"},
        ["FAILS import pkg_resources … | setuptools<81"],
    ),
    "modules of TorchServe and torch that need more packages": (
        {
            "handler.py": "from ts.handler_utils import hf_batch_streamer\n"
            f"from torch.utils.tensorboard import SummaryWriter\n{FUNCTION}"
        },
        [
            "FAILS import transformers (ts/handler_utils/hf_batch_streamer.py",
            "FAILS import torch.utils.tensorboard (handler.py:2): not in … | tensorboard",
        ],
    ),
    "one within a function": (
        {
            "handler.py": "class A:\n    def initialize(self, c):\n        from sklearn import svm\n"
            "    def handle(self, data, c):\n        return [1 for row in data]\n"
        },
        ["check import sklearn (handler.py:3), in a function or a condition … | scikit-learn"],
    ),
    "a folder on sys.path": (
        {
            "handler.py": "import os, sys\n"
            'sys.path.insert(0, os.path.join(os.path.dirname(__file__), "deps"))\n'
            f"import inner\n{FUNCTION}",
            "deps/inner.py": "import captum",
        },
        ["FAILS import captum (deps/inner.py:1)"],
    ),
    "a package that --extra-files flattened": (
        {"handler.py": f"from mypkg.util import f\n{FUNCTION}", "util.py": ""},
        [
            "FAILS import mypkg.util (handler.py:1): util.py is at the top of the archive, because "
            "--extra-files copies … write: import util"
        ],
    ),
    "a package of the archive": (
        {
            "handler.py": f"from mypkg import util\n{FUNCTION}",
            "mypkg/__init__.py": "",
            "mypkg/util.py": "from .deep import f",
            "mypkg/deep.py": "import timm",
        },
        ["FAILS import timm (mypkg/deep.py:1)"],
    ),
    "a module in a zip file that the handler unpacks": (
        {
            "handler.py": f"{FUNCTION}\ndef load():\n    from models.net import Net",
            "models.zip": zipped("models/net.py"),
        },
        [],
    ),
    "a relative one in the handler": (
        {"handler.py": f"from .util import f\n{FUNCTION}", "util.py": ""},
        ["FAILS handler.py:1 imports .util: TorchServe imports the file outside of a package"],
    ),
    "a file that no other imports": (
        {"old_tool.py": "print 'x'", "tests/test_it.py": "import pytest"},
        [],
    ),
    "an imported file of Python 2": (
        {"handler.py": f"import old_tool\n{FUNCTION}", "old_tool.py": "\nprint 'x'"},
        ["FAILS old_tool.py:2 is not valid Python 3.11"],
    ),
    "a handler with a byte-order mark": (
        {"handler.py": codecs.BOM_UTF8 + FUNCTION.replace("\n", "\r\n").encode()},
        [],
    ),
}


@pytest.mark.parametrize(("files", "reasons"), IMPORTS.values(), ids=IMPORTS.keys())
def test_missing_imports_of_the_handler_are_reported(
    tmp_path: Path, files: Files, reasons: list[str]
) -> None:
    check_reported(inspect_files(tmp_path, files), reasons)


def test_what_the_handlers_of_torchserve_import_is_reported(tmp_path: Path) -> None:
    findings = inspect_files(tmp_path, {}, handler="image_classifier")
    check_reported(
        findings,
        [
            "FAILS import captum (ts/torch_handler/vision_handler.py",
            "FAILS import torchvision (ts/torch_handler",
            'check ts/torch_handler/vision_handler.py:47 reads "data"',
        ],
    )


REQUIREMENTS: dict[str, tuple[str, list[str]]] = {
    "a package that is in the image": ("numpy\n\n# words\n", []),
    "one that no file imports": (
        "numpy\nspacy>=3  # words\n",
        ["check requirements.txt:2: spacy>=3: not in the image, and no file … | spacy>=3"],
    ),
    "another version": (
        "torch==1.11.0",
        ["check requirements.txt:1: torch==1.11.0: left out: the image has torch 2"],
    ),
    "TorchServe": (
        "ts\ntorchserve\ntorch-model-archiver",
        [
            "check requirements.txt:1: ts: left out: it is another project's package; the image has "
            "TorchServe 0."
        ],
    ),
    "a marker that is false": ("nvidia-ml-py3; platform_machine=='arm64'", []),
    "hashes": (
        "transformers==4.40.0 \\\n    --hash=sha256:abc \\\n    --hash=sha256:def\n",
        ["check requirements.txt:1: transformers==4.40.0: not in … | transformers==4.40.0"],
    ),
    "a repository": (
        "git+https://example.com/x.git\n-e git+https://example.com/y.git",
        [
            "check requirements.txt:1: git+https://example.com/x.git: a source … | git+https",
            "check requirements.txt:2: -e git+https://example.com/y.git: a source … | git+https",
        ],
    ),
    "an option": (
        "--extra-index-url https://example.com\n-r more.txt",
        [
            "check requirements.txt:1: --extra-index-url https://example.com: an option of pip",
            "check requirements.txt:2: -r more.txt: another file",
        ],
    ),
    "a local file": ("./wheels/x-1.0-py3-none-any.whl", ["FAILS requirements.txt:1: ./wheels/x"]),
    "a discontinued package": (
        "torchtext==0.6",
        ["check requirements.txt:1: torchtext==0.6: left out: its"],
    ),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("text", "reasons"), REQUIREMENTS.values(), ids=REQUIREMENTS.keys())
def test_each_line_of_requirements_is_read_as_pip_reads_it(
    tmp_path: Path, text: str, reasons: list[str], encoding: str
) -> None:
    files = {"requirements.txt": text.replace("\n", "\r\n").encode(encoding)}
    check_reported(inspect_files(tmp_path, files), reasons)


@pytest.mark.parametrize(
    ("module", "line", "requirement"),
    [
        ("transformers", "transformers==4.30.2", "transformers==4.30.2"),
        ("sklearn", "sklearn", "scikit-learn"),
        ("cv2", "opencv-python==4.5.5.64", "opencv-python-headless==4.5.5.64"),
        ("torchvision", "torchvision==0.12.0", "torchvision"),
        ("acme", "acme~=2.0", "acme~=2.0"),
        ("pandas", "pandas==1.3.5", "pandas>=1.5.1"),
    ],
)
def test_package_has_the_version_that_the_archive_was_made_with(
    tmp_path: Path, module: str, line: str, requirement: str
) -> None:
    files = {"handler.py": f"import {module}\n{FUNCTION}", "requirements.txt": line}
    failing = [found for found in inspect_files(tmp_path, files) if found.works is not True]
    assert [(found.works, found.requirement) for found in failing] == [(False, requirement)]


@pytest.mark.parametrize(
    ("name", "content", "module", "requirement"),
    [
        (
            "config.json",
            '{"transformers_version": "4.30.2"}',
            "transformers",
            "transformers==4.30.2",
        ),
        (
            "scaler.pkl",
            pickle.dumps({"with_mean": True, "_sklearn_version": "1.3.2"}),
            "sklearn",
            "scikit-learn==1.3.2",
        ),
    ],
)
def test_package_has_the_version_that_wrote_a_file_of_the_archive(
    tmp_path: Path, name: str, content: str | bytes, module: str, requirement: str
) -> None:
    files: Files = {"handler.py": f"import {module}\n{FUNCTION}", name: content}
    assert [found.requirement for found in inspect_files(tmp_path, files)][1:] == [requirement]


HANDLERS: dict[str, tuple[str, list[str]]] = {
    "a function": (FUNCTION, []),
    "a method that reads the first row": (
        "class A:\n    def initialize(self, c): ...\n    def handle(self, data, c):\n        return [data[0]]",
        ["check handler.py:4 reads data[0]: only the first instance"],
    ),
    "a function that reads the first row": (
        "def handle(data, context):\n    return data and [data[0]]",
        ["check handler.py:2 reads data[0]: only the first instance"],
    ),
    "a look at the first row before all are read": (
        "def handle(data, context):\n    if data[0]: ...\n    return [f(row) for row in data]",
        [],
    ),
    "a look at the first row before all are passed on": (
        'def handle(data, context):\n    if data[0] == "x": ...\n    return predict(data)',
        [],
    ),
    "the first row after a line in the log": (
        "def handle(data, context):\n    if not data or data is None: return\n    log.info(data)\n"
        "    return [data[0]]",
        ["check handler.py:4 reads data[0]: only the first instance"],
    ),
    "two classes": (
        "import enum\nclass K(enum.Enum): x = 1\nclass A:\n    def handle(self, data, c): ...",
        [
            "FAILS handler handler.py: TorchServe expects one class or a function handle; it has 2 classes: K, A"
        ],
    ),
    "a named tuple beside the class": (
        'from collections import namedtuple\nBox = namedtuple("Box", "x y")\n'
        "class A:\n    def handle(self, data, c): ...",
        ["FAILS handler handler.py: TorchServe expects one class … 2 classes: Box, A"],
    ),
    "no class": ("x = 1", ["FAILS handler handler.py: TorchServe expects one class … 0 classes"]),
    "two classes and a function": (f"class K: ...\nclass A: ...\n{FUNCTION}", []),
    "a class without initialize": (
        "class A:\n    def handle(self, data, c): ...",
        ["FAILS handler handler.py: class A has no method initialize"],
    ),
    "an async method": (
        "class A:\n    def initialize(self, c): ...\n    async def handle(self, data, c): ...",
        ["FAILS handler.py:3: handle is async: TorchServe does not await it"],
    ),
    "model.eval()": (f"{FUNCTION}\ndef load(model):\n    model.eval()", []),
    "instances of the body": (
        'def handle(data, c):\n    return [f(row["body"]["instances"]) for row in data]',
        ['check handler.py:2 reads "instances", as a handler does … set SERVICE_ENVELOPE=none'],
    ),
    "instances of a parsed body": (
        "import json\ndef handle(data, c):\n    for row in data:\n"
        '        body = json.loads(row.get("body").decode("utf-8"))\n        f(body["instances"])',
        ['check handler.py:5 reads "instances" … set SERVICE_ENVELOPE=none'],
    ),
    "the body alone": (
        'def handle(data, c):\n    return [f(row["body"]) for row in data]',
        ['check handler.py:2 reads "body" … set SERVICE_ENVELOPE=none'],
    ),
    "data or the body": (
        'def handle(data, c):\n    return [f(row.get("data") or row.get("body")) for row in data]',
        ['check handler.py:2 reads "data" of each instance … set WRAP_INSTANCES=data'],
    ),
    "data, if it is there": (
        'def handle(data, c):\n    return [r["data"] if "data" in r else r for r in data]',
        [],
    ),
    "data of the first row": (
        "class A:\n    def initialize(self, c): ...\n    def preprocess(self, requests):\n"
        '        text = requests[0].get("data")\n    def handle(self, data, c): ...',
        [
            'check handler.py:4 reads "data" of each instance … set WRAP_INSTANCES=data',
            "check handler.py:4 reads requests[0]",
        ],
    ),
    "data or the body, if it is an object": (
        'def handle(data, c):\n    return [r.get("data") or r["body"] if isinstance(r, dict) else r for r in data]',
        [],
    ),
    "an answer with predictions and instances": (
        'def handle(data, c):\n    return [{"instances": 1, "data": row["x"]} for row in data]',
        [],
    ),
    "NumPy 1": (
        f"import numpy as np\nx = np.float_(1)\ny = np.in1d\nz = np.float32\n{FUNCTION}",
        [
            "check handler.py:2: numpy.float_ does not exist in NumPy 2",
            "check handler.py:3: numpy.in1d does not exist in NumPy 2",
        ],
    ),
    "Pillow 9": (
        f"from PIL import Image\nx = Image.ANTIALIAS\ny = Image.LANCZOS, Image.Image.resize\n{FUNCTION}",
        ["check handler.py:2: PIL.Image.ANTIALIAS does not exist in Pillow 1"],
    ),
    "PyYAML 5": (
        f"import yaml\nx = yaml.load('a')\ny = yaml.load('a', Loader=yaml.SafeLoader)\n{FUNCTION}",
        ["check handler.py:2: yaml.load needs a Loader since PyYAML 6 | write yaml.safe_load"],
    ),
    "Python 3.9": (
        f"import inspect\nfrom collections import Mapping, OrderedDict\ninspect.getargspec\n{FUNCTION}",
        [
            "check handler.py:2: collections.Mapping does not exist in Python 3.11",
            "check handler.py:3: inspect.getargspec does not exist in Python 3.11",
        ],
    ),
    "a download": (
        f'{FUNCTION}\ndef load(dir):\n    A.from_pretrained("bert-base-uncased")\n    A.from_pretrained(dir)\n'
        "    models.resnet18(pretrained=True)",
        [
            "check handler.py:5: A.from_pretrained('bert-base-uncased') needs a network",
            "check handler.py:7: models.resnet18(pretrained=True) needs a network",
        ],
    ),
    "torch.compile": (
        f"import torch\n{FUNCTION}\ndef load(m):\n    return torch.compile(m)",
        ["check handler.py:6: torch.compile needs a C++ compiler"],
    ),
    "an installation": (
        f'{FUNCTION}\ndef load():\n    run([sys.executable, "-m", "pip", "install", "-q", "x==1", "y[z]"])\n'
        '    os.system("pip install a")',
        [
            "FAILS handler.py:5: installs packages by pip, which the image … | x==1",
            "FAILS handler.py:5: installs packages by pip, which the image … | y[z]",
            "FAILS handler.py:6: installs packages by pip … | a",
        ],
    ),
    "metrics": (
        "def handle(data, context):\n    context.metrics.add_counter('rows', len(data))\n"
        "    context.metrics.add_time('took', 1)\n    return data and [1 for _ in data]",
        ["check handler.py:2: context.metrics.add_counter: metrics of a handler are not exported"],
    ),
    "the home folder": (
        f'{FUNCTION}\ndef load():\n    open(os.path.expanduser("~/.cache/x"))',
        ["check handler.py:5: '~/.cache/x': the home folder is empty at each start"],
    ),
    "weights that are not in the archive": (
        f'import torch\n{FUNCTION}\ndef load():\n    torch.load("/tmp/x.pt")',
        [
            "check handler.py:6: torch.load restores only tensors … TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1"
        ],
    ),
}


@pytest.mark.parametrize(("source", "reasons"), HANDLERS.values(), ids=HANDLERS.keys())
def test_handler_is_read_as_torchserve_calls_it(
    tmp_path: Path, source: str, reasons: list[str]
) -> None:
    check_reported(inspect_files(tmp_path, {"handler.py": source}), reasons)


@pytest.mark.parametrize(
    ("config", "reasons"),
    [
        ("batchSize: 4", ["check model-config.yaml: batchSize 4 applies"]),
        (
            "pt2: inductor",
            ["FAILS model-config.yaml: pt2: the backend inductor needs a C++ compiler"],
        ),
        ("pt2: {compile: {enable: true}}", ["FAILS model-config.yaml: pt2: the backend inductor"]),
        ("pt2: {compile: {enable: true, backend: aot_eager}}", []),
        ("pt2: {compile: {enable: false, backend: inductor}}", []),
        ("pt2: {mode: reduce-overhead}", ["FAILS model-config.yaml: pt2: the backend inductor"]),
        ("pt2: {export: {aot_compile: true}}", []),
        ("pt2: [1]", []),
        ("pt2: {compile: inductor}", []),
        ("- a list", []),
        ("handler: {top_k: 3", ["FAILS model-config.yaml:1: not YAML: expected ',' or '}'"]),
    ],
)
def test_settings_of_model_config_that_change_the_answers_are_reported(
    tmp_path: Path, config: str, reasons: list[str]
) -> None:
    check_reported(inspect_files(tmp_path, {"model-config.yaml": config}), reasons)


def save(value: object, **options: Any) -> bytes:
    """Return the bytes that torch.save writes."""
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def script() -> bytes:
    """Return the bytes of a TorchScript model."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)
    return file.getvalue()


STATE = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)).state_dict()
WEIGHTS = {
    "a state_dict": save(STATE),
    "a state_dict before torch 1.6": save(STATE, _use_new_zipfile_serialization=False),
    "numbers, texts and types": save({"epoch": 1, "dtype": torch.float16, "size": torch.Size([1])}),
    "a parameter": save(torch.nn.Parameter(torch.ones(2))),
    "bytes and a set": save({"x": {1}, "y": b"1", "z": bytearray(b"1"), "c": 1j}),
    "a whole model": save(torch.nn.Linear(2, 2)),
    "a whole model before torch 1.6": save(
        torch.nn.Linear(2, 2), _use_new_zipfile_serialization=False
    ),
    "a whole model of protocol 4": save(torch.nn.Linear(2, 2), pickle_protocol=4),
    "a number of NumPy": save({"loss": np.float64(1)}),
    "options": save({"args": argparse.Namespace(lr=1)}),
    "TorchScript": script(),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:'torch.load' received a zip")
@pytest.mark.parametrize("content", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_weights_that_torch_refuses_are_reported_with_what_allows_them(
    tmp_path: Path, content: bytes
) -> None:
    try:
        torch.load(io.BytesIO(content), weights_only=True)
        is_refused = False
    except (pickle.UnpicklingError, RuntimeError):
        is_refused = True
    source = f'import torch\n{FUNCTION}\ndef load():\n    torch.load("x.pt", map_location="cpu")'
    files: Files = {"handler.py": source, "x.pt": content}
    findings = inspect_files(tmp_path, files, serializedFile="x.pt")
    failing = [found for found in findings if found.works is False]
    assert len(failing) == is_refused, findings
    assert all("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1" in found.hint for found in failing)
    # A handler that unpickles what it trusts is not restricted.
    for trusted in (
        source.replace('"cpu"', '"cpu", weights_only=False'),
        f"{source}\ntorch.serialization.add_safe_globals([A])",
    ):
        files = {"handler.py": trusted, "x.pt": content}
        check_reported(inspect_files(tmp_path, files, serializedFile="x.pt"), [])


def test_vocabulary_that_is_a_class_is_reported(tmp_path: Path) -> None:
    vocabulary = save(argparse.Namespace(words=[]))
    files: Files = {"source_vocab.pt": vocabulary}
    findings = inspect_files(tmp_path, files, handler="text_classifier")
    [found] = [each for each in findings if "source_vocab.pt" in each.description]
    assert found.works is False
    assert "contains argparse.Namespace; torch.load (ts/torch_handler/text" in found.description


@pytest.mark.parametrize(
    ("model", "reasons"),
    [
        ("import torch\nclass Net(torch.nn.Module): ...", []),
        (
            "import torch\nclass Block(torch.nn.Module): ...\nclass Net(torch.nn.Module): ...",
            ["FAILS model file net.py: TorchServe expects one class; it has 2: Block, Net"],
        ),
        ("import timm\nclass Net: ...", ["FAILS import timm (net.py:1)"]),
    ],
)
def test_model_file_is_read_as_torchserve_loads_it(
    tmp_path: Path, model: str, reasons: list[str]
) -> None:
    files: Files = {"net.py": model, "x.pt": save(STATE)}
    findings = inspect_files(tmp_path, files, modelFile="net.py", serializedFile="x.pt")
    check_reported(findings, reasons)


def test_files_that_are_named_but_missing_are_reported(tmp_path: Path) -> None:
    check_reported(
        inspect_files(tmp_path, {}, handler="mine.py", serializedFile="x.pt", configFile="c.yaml"),
        [
            "FAILS handler mine.py: neither in the archive nor TorchServe's own",
            "FAILS c.yaml: named in the manifest but missing in the archive",
            "FAILS x.pt: named in the manifest but missing in the archive",
        ],
    )


@pytest.mark.parametrize("kind", ["a folder", "a .tar.gz"])
def test_archive_is_read_from_each_form_of_torch_model_archiver(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "model"
    (folder / "MAR-INF").mkdir(parents=True)
    model = {"modelName": "model", "handler": "handler.py"}
    document = {"model": model, "archiverVersion": "0.6.0", "createdOn": "10/03/2022 12:00:00"}
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(document))
    (folder / "handler.py").write_text(FUNCTION)
    path = folder
    if kind == "a .tar.gz":
        path = tmp_path / "model.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            archive.add(folder, "model")
    found = list(inspect.inspect_archive(inspect.read_archive(path)))
    origin = "torch-model-archiver 0.6.0, 10/03/2022 12:00:00"
    assert found == [Finding(True, f"handler handler.py: found in the archive ({origin})")]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>", r"x\.mar is not a \.mar archive, it starts with '<html>'; copy it again"),
        (b"", r"x\.mar is empty; copy it again"),
        (
            b"PK\3\4" + bytes(40),
            r"x\.mar is incomplete: the end of the archive is missing after 44",
        ),
        (b"PK\5\6" + bytes(18), r"x\.mar: MAR-INF/MANIFEST\.json is missing"),
    ],
    ids=["no zip", "an empty file", "a cut zip", "an empty zip"],
)
def test_file_that_is_not_an_archive_is_refused(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "x.mar").write_bytes(content)
    with pytest.raises(ArchiveError, match=reason):
        inspect.read_archive(tmp_path / "x.mar")


CRASH = """\
Fatal Python error: Segmentation fault

Current thread 0x00007f12 (most recent call first):
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "/tmp/models/handler.py", line 4 in initialize
  File "/tmp/models/vertex_stock_handler.py", line 46 in initialize
"""
EXCEPTION = """\
Traceback (most recent call last):
  File "/tmp/models/handler.py", line 7, in handle
    return self.model(data)
  File "/opt/venv/lib/python3.11/site-packages/torch/nn/modules/module.py", line 1, in forward
RuntimeError: mat1 and mat2 shapes cannot be multiplied
"""


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (CRASH, ("Fatal Python error: Segmentation fault", "handler.py:4")),
        (EXCEPTION, ("RuntimeError: mat1 and mat2 shapes cannot be multiplied", "handler.py:7")),
        ("loaded", ("", "")),
    ],
)
def test_cause_of_a_failure_is_found_with_its_line_in_the_archive(
    log: str, cause: tuple[str, str]
) -> None:
    assert find_cause(Outcome(log=log), ["handler.py", "MAR-INF/MANIFEST.json"]) == cause


@pytest.mark.parametrize(
    ("own", "beside", "lines"),
    [
        ("torch==1.11.0\nacme~=2.0\ncaptum", None, None),
        ("acme~=2.0", None, "'acme~=2.0' captum"),
        ("acme~=2.0", "acme", "captum"),
        ("", "captum\nacme", None),
    ],
    ids=["its own lists all", "its own lists some", "the new one lists some", "the new one"],
)
def test_only_missing_packages_are_to_be_added(
    tmp_path: Path, own: str, beside: str | None, lines: str | None
) -> None:
    files: Files = {"handler.py": f"import acme, captum\n{FUNCTION}", "requirements.txt": own}
    inspect_files(tmp_path, files)
    archive, file = tmp_path / "model.mar", tmp_path / "requirements.txt"
    if beside:
        file.write_text(beside)
    command = [sys.executable, "-m", "serving.stock", "--no-trial", "--json", str(archive)]
    done = run_program(command, cwd=ROOT)
    assert done.code == 1, done.err
    commands = json.loads(done.out)["commands"]
    adding = f"printf '%s\\n' {lines} >> {file}" if lines else None
    assert commands.get("add packages") == adding
    assert commands["image of its own"] == f"make build MODEL={archive}"


@pytest.mark.parametrize(
    ("error", "requirement"),
    [
        ("ModuleNotFoundError: No module named 'cv2'", "opencv-python-headless"),
        ("ImportError: Missing optional dependency 'openpyxl'. Use pip or conda to", "openpyxl"),
        (
            "ImportError: it requires Accelerate: `pip install 'accelerate>=0.26'`",
            "accelerate>=0.26",
        ),
        ("CalledProcessError: Command '['python', '-m', 'pip', 'install', '-q', 'x']'", "x"),
        ("ValueError: numpy.dtype size changed, may indicate binary incompatibility", "numpy<2"),
        ("ImportError: libGL.so.1: cannot open shared object file", "opencv-python-headless"),
        ("ModuleNotFoundError: No module named 'unknown_tools'", ""),
    ],
)
def test_package_that_an_exception_names_is_to_be_added(
    tmp_path: Path, error: str, requirement: str
) -> None:
    inspect_files(tmp_path, {"handler.py": FUNCTION})
    contents = inspect.read_archive(tmp_path / "model.mar")
    report = combine(contents, [], Outcome(error=error), None)
    assert report.requirements == ([requirement] if requirement else [])


def test_path_that_is_no_archive_is_named_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "flow.war").touch()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "old.mar").touch()
    for path, reason in (("flow.war", "a workflow archive"), ("store", "give the archive: ")):
        command = [sys.executable, "-m", "serving.stock", "--json", str(tmp_path / path)]
        done = run_program(command, cwd=ROOT)
        assert done.code == 1, done.err
        assert reason in json.loads(done.out)["summary"]
