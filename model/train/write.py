"""Write a trained model: the files that the archive carries, and pictures to try it with."""

import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import save_file

from model.network import DigitNet
from model.train.evaluate import Evaluation

MAX_HELD_OUT = 5
"""How many pictures of each label are written, spread over all of them."""


def write_model(folder: Path, net: DigitNet, about: dict[str, Any], sample: Evaluation) -> None:
    """Write model.json, golden.json, held-out/ and last, as a sign of completeness, the weights."""
    pictures, labels, answers, scores = sample
    right = [score * (labels[i] == answers[i]) for i, score in enumerate(scores)]
    surest = right.index(max(right))
    if labels[surest] != answers[surest]:
        sys.exit("model.train: no held-out picture was read right; train on more pictures")
    write_held_out(folder / "held-out", list(zip(labels, pictures, strict=True)))
    expected = {"label": labels[surest]}
    golden = {"instance": as_instance(pictures[surest]), "expected": expected}
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
    (folder / "model.json").write_text(json.dumps(about, indent=2) + "\n")
    tensors = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    save_file(tensors, folder / "weights.safetensors")


def write_held_out(folder: Path, pictures: list[tuple[str, Image.Image]]) -> int:
    """Write some pictures of each label to LABEL-NUMBER.png, and ten of them as instances."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    kept = []
    for label in dict.fromkeys(label for label, _ in pictures):
        of_label = [picture for of, picture in pictures if of == label]
        of_label = of_label[:: max(len(of_label) // MAX_HELD_OUT, 1)][:MAX_HELD_OUT]
        for number, picture in enumerate(of_label):
            (folder / f"{label}-{number:03}.png").write_bytes(png(picture))
        kept += of_label
    instances = [as_instance(picture) for picture in kept[:: max(len(kept) // 10, 1)]]
    (folder / "instances.json").write_text(json.dumps({"instances": instances}) + "\n")
    return len(kept)


def png(picture: Image.Image) -> bytes:
    """Encode a picture as a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def as_instance(picture: Image.Image) -> dict[str, str]:
    """Encode a picture as a client sends it."""
    return {"b64": base64.b64encode(png(picture)).decode()}
