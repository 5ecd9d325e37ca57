"""What the measurement of growth asks, and how it counts."""

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import growth
from benchmarks.load import Load


def test_a_refusal_is_no_answer() -> None:
    row = growth.row("clients", 512, Load(1000, 20, 60, failed=1800), seconds=3)
    assert (row["answered_s"], row["refused_s"]) == (400, 600)
    assert (row["axis"], row["value"], row["p50_ms"], row["p99_ms"]) == ("clients", 512, 20, 60)


def test_a_picture_has_the_size_that_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(growth, "BUILD", tmp_path)
    asked = json.loads(growth.picture(160, 120).read_text())
    jpeg = base64.b64decode(asked["instances"][0]["b64"])
    assert Image.open(io.BytesIO(jpeg)).size == (160, 120)
