"""Write a trained model: the files that the archive carries, and pictures to try it with."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from model.network import DigitNet
from model.train.evaluate import Shown

MAX_HELD_OUT = 5
"""How many pictures of each label are written, spread over all of them."""


def write_model(folder: Path, net: DigitNet, about: dict[str, Any], golden: Shown) -> None:
    """Write model.json, golden.json and, last, as a sign of completeness, the weights."""
    request = {"instance": {"b64": golden.base64}, "expected": {"label": golden.label}}
    (folder / "golden.json").write_text(json.dumps(request) + "\n")
    (folder / "model.json").write_text(json.dumps(about, indent=2) + "\n")
    tensors = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    save_file(tensors, folder / "weights.safetensors")


def write_held_out(folder: Path, shown: list[Shown]) -> int:
    """Write some pictures of each label to LABEL-NUMBER.png, and ten of them as instances."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    kept = []
    for label in dict.fromkeys(each.label for each in shown):
        of_label = [each for each in shown if each.label == label]
        of_label = of_label[:: max(len(of_label) // MAX_HELD_OUT, 1)][:MAX_HELD_OUT]
        for number, each in enumerate(of_label):
            each.picture.save(folder / f"{label}-{number:03}.png")
        kept += of_label
    instances = [{"b64": each.base64} for each in kept[:: max(len(kept) // 10, 1)]]
    (folder / "instances.json").write_text(json.dumps({"instances": instances}) + "\n")
    return len(kept)
