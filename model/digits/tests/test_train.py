"""Training, from a folder of images to a task that makes predictions."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn
from train.__main__ import main
from train.evaluation import VARIANTS

from handler.loading import load_and_check
from model import load
from tests.images import image_base64

FOLDER = Path(__file__).resolve().parent.parent


def train(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    main()


def cross(size: int) -> Image.Image:
    image = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(image)
    pen.line((size // 4, size // 4, 3 * size // 4, 3 * size // 4), "navy", size // 10)
    pen.line((size // 4, 3 * size // 4, 3 * size // 4, size // 4), "navy", size // 10)
    return image


def ring(size: int) -> Image.Image:
    image = Image.new("RGB", (size, size), "white")
    box = (size // 4, size // 4, 3 * size // 4, 3 * size // 4)
    ImageDraw.Draw(image).ellipse(box, outline="darkred", width=size // 10)
    return image


@pytest.mark.full
def test_model_is_trained_on_one_folder_of_images_per_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for label, draw in (("cross", cross), ("ring", ring)):
        (tmp_path / "data" / label).mkdir(parents=True)
        for size in range(40, 100, 10):
            draw(size).save(tmp_path / "data" / label / f"{size}.png")
    model, report = tmp_path / "model", tmp_path / "report"
    folders = ("--data", str(tmp_path / "data"), "--out", str(model), "--report", str(report))
    train(monkeypatch, *folders, "--pictures", "512", "--epochs", "5")
    printed = capsys.readouterr()
    assert "photographed, black on white" in printed.out
    assert "training" in printed.err  # the progress bar

    requests = json.loads((model / "requests.json").read_text())
    assert {each["expected"]["label"] for each in requests} == {"cross", "ring"}
    task = load(model, torch.device("cpu"))
    (row,) = task.inference(task.preprocess(image_base64(ring(300))).unsqueeze(0))
    assert task.postprocess(row, {})["label"] == "ring"

    metadata = json.loads((model / "model.json").read_text())
    assert metadata["labels"] == ["cross", "ring"]
    assert metadata["network_version"] == 1
    assert metadata["metrics"]["held_out_accuracy"].keys() == VARIANTS.keys()
    held_out = json.loads((model / "held-out.json").read_text())
    assert {each["truth"] for each in held_out} == {"cross", "ring"}
    with Image.open(report / "misread.png") as misread:
        assert misread.width == 840
    assert "cross" in (report / "confusion.txt").read_text()


def test_committed_model_classifies_its_held_out_images() -> None:
    load_and_check(FOLDER, torch.device("cpu"))
    task = load(FOLDER, torch.device("cpu"))
    assert isinstance(task.backend, nn.Module)  # no backend was chosen: eager
    held_out = json.loads((FOLDER / "held-out.json").read_text())
    batch = torch.stack([task.preprocess(each["instance"]) for each in held_out])
    predicted = [task.postprocess(row, {})["label"] for row in task.inference(batch)]
    correct = [each["truth"] == label for each, label in zip(held_out, predicted, strict=True)]
    assert len(held_out) == 50
    assert sum(correct) >= 48
    metadata = json.loads((FOLDER / "model.json").read_text())
    assert metadata["labels"] == list("0123456789")
    assert min(metadata["metrics"]["held_out_accuracy"].values()) > 0.95


def test_blank_image_gets_no_confident_prediction() -> None:
    task = load(FOLDER, torch.device("cpu"))
    (row,) = task.inference(torch.zeros(1, 1, 28, 28, dtype=torch.uint8))
    assert row.max() < 0.5


def test_weights_of_another_network_version_are_rejected(tmp_path: Path) -> None:
    text = (FOLDER / "model.json").read_text()
    changed = text.replace('"network_version": ', '"network_version": 9')
    (tmp_path / "model.json").write_text(changed)
    with pytest.raises(ValueError, match="network version 91, this code has version 1"):
        load(tmp_path, torch.device("cpu"))


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "expected one subfolder per class"),
        ({"a/1.png": b"", "b/1.png": b""}, "at least two images .*; got a: 1, b: 1"),
        ({"a/1.png": b"x", "a/2.png": b"x", "b/1.png": b"", "b/2.png": b""}, "a/1.png: not a PNG"),
    ],
)
def test_unusable_training_folder_is_rejected_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], reason: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SystemExit, match=f"^train: .*{reason}.*$"):
        train(monkeypatch, "--data", str(tmp_path))


def test_too_small_number_of_images_is_rejected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train(monkeypatch, "--pictures", "5")
    assert "--pictures: expected 128 or more" in capsys.readouterr().err
