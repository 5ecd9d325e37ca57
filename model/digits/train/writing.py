"""Write a trained model: the files of the archive, and held-out images to evaluate it with."""

import json
from pathlib import Path
from typing import Any

from network import DigitNet
from safetensors.torch import save_file

from train.evaluation import Sample

MAX_HELD_OUT = 300
"""The number of held-out images that are written."""


def write_model(folder: Path, net: DigitNet, metadata: dict[str, Any], known: list[Sample]) -> None:
    """Write model.json, requests.json with the `known` images, and the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    requests = [
        {"instance": {"b64": sample.base64}, "expected": {"label": sample.label}}
        for sample in known
    ]
    _write_lines(folder / "requests.json", requests)
    (folder / "model.json").write_text(json.dumps(metadata, indent=2) + "\n")
    tensors = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    save_file(tensors, folder / "weights.safetensors")


def write_held_out(folder: Path, samples: list[Sample]) -> None:
    """Write some of the held-out images, of every label and variant, to held-out.json."""
    chosen = samples[:: max(len(samples) // MAX_HELD_OUT, 1)]
    rows = [
        {"instance": {"b64": each.base64}, "truth": each.label, "variant": each.variant}
        for each in chosen
    ]
    _write_lines(folder / "held-out.json", rows)


def _write_lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
