"""The findings of `make migrate` about an archive's files."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from serving.errors import ArchiveError
from serving.stock import inspect

HANDLER = """
import json
import torch
from PIL import Image
from ts.torch_handler.base_handler import BaseHandler

class Handler(BaseHandler):
    def preprocess(self, data):
        return torch.tensor([row for row in data])
"""


def inspect_files(
    tmp_path: Path, files: Mapping[str, str], **manifest: str
) -> list[tuple[bool | None, str]]:
    """Inspect an archive of these files; return each finding's state and text."""
    path = tmp_path / "model.mar"
    model = {"modelName": "model", "handler": "handler.py", **manifest}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": model}))
        for name, text in files.items():
            archive.writestr(name, text)
    found = inspect.inspect_archive(inspect.read_archive(path))
    return [(finding.works, f"{finding.description} | {finding.hint}") for finding in found]


OPTIONAL = "try:\n    import torch_xla\nexcept ImportError:\n    torch_xla = None\n"
CASES = {
    "nothing": ({"handler.py": OPTIONAL + HANDLER}, {}, []),
    "a package that is not in the image": (
        {"handler.py": f"import cv2, helper\n{HANDLER}", "helper.py": "import transformers"},
        {},
        [
            "import cv2 (handler.py): not in the image | write opencv-python-headless in requirements.txt",
            "import transformers (helper.py): not in the image | write transformers in requirements.txt",
        ],
    ),
    "a package whose name is not known": (
        {"handler.py": f"import my_tools\n{HANDLER}"},
        {},
        [
            "import my_tools (handler.py): not in the image | write the package that provides my_tools in"
        ],
    ),
    "what TorchServe's own handlers import": (
        {},
        {"handler": "image_classifier"},
        ["import captum (ts/torch_handler/vision_handler.py)", "import torchvision"],
    ),
    "a handler that is not there": ({}, {"handler": "mine.py"}, ["handler mine.py: neither in"]),
    "weights that are not there": (
        {"handler.py": HANDLER},
        {"serializedFile": "x.pt"},
        ["x.pt: named in the manifest but missing in the archive"],
    ),
    "requirements": (
        {"handler.py": HANDLER, "requirements.txt": "numpy\nspacy>=3  # words\n"},
        {"requirementsFile": "requirements.txt"},
        ["spacy>=3: not in the image, and nothing is installed at startup | make build MODEL="],
    ),
}


@pytest.mark.parametrize(("files", "manifest", "reasons"), CASES.values(), ids=CASES.keys())
def test_missing_files_and_packages_are_reported_with_what_to_do(
    tmp_path: Path, files: Mapping[str, str], manifest: dict[str, str], reasons: list[str]
) -> None:
    bad = [text for works, text in inspect_files(tmp_path, files, **manifest) if not works]
    for reason in reasons:
        assert any(reason in text for text in bad), bad
    assert len(bad) == len(reasons)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return data[0]", "reads data[0]: only the first instance"),
        ('return [row["instances"] for row in data]', 'reads "instances"'),
    ],
)
def test_code_that_does_not_fit_the_envelope_is_reported(
    tmp_path: Path, body: str, reason: str
) -> None:
    source = f"class Handler:\n    def handle(self, data, context):\n        {body}\n"
    checks = [
        text for works, text in inspect_files(tmp_path, {"handler.py": source}) if works is None
    ]
    assert len(checks) == 1
    assert reason in checks[0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no", r"x\.mar is not a \.mar archive"),
        (b"PK\5\6" + bytes(18), r"x\.mar: MAR-INF/MANIFEST\.json is missing"),
    ],
    ids=["no zip", "an empty zip"],
)
def test_file_that_is_not_an_archive_is_refused(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "x.mar").write_bytes(content)
    with pytest.raises(ArchiveError, match=reason):
        inspect.read_archive(tmp_path / "x.mar")
