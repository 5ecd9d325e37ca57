"""Write a trained model: the files of the archive, and held-out images to try it with."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from model.network import DigitNet
from model.train.evaluation import Sample

MAX_HELD_OUT = 5
"""The number of images of each label that are written."""


def write_model(folder: Path, net: DigitNet, metadata: dict[str, Any], golden: Sample) -> None:
    """Write model.json, golden.json and, last, so that they mark a complete folder, the weights."""
    request = {"instance": {"b64": golden.base64}, "expected": {"label": golden.label}}
    (folder / "golden.json").write_text(json.dumps(request) + "\n")
    (folder / "model.json").write_text(json.dumps(metadata, indent=2) + "\n")
    tensors = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    save_file(tensors, folder / "weights.safetensors")


def write_held_out(folder: Path, samples: list[Sample]) -> int:
    """Write images of each label to LABEL-NUMBER.png, and ten of them to instances.json; return their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    written = []
    for label in dict.fromkeys(sample.label for sample in samples):
        of_label = [sample for sample in samples if sample.label == label]
        of_label = of_label[:: max(len(of_label) // MAX_HELD_OUT, 1)][:MAX_HELD_OUT]
        for number, sample in enumerate(of_label):
            sample.image.save(folder / f"{label}-{number:03}.png")
        written += of_label
    instances = [{"b64": sample.base64} for sample in written[:: max(len(written) // 10, 1)]]
    (folder / "instances.json").write_text(json.dumps({"instances": instances}) + "\n")
    return len(written)
