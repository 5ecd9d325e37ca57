"""The model of the tests: classify images by their brightness, from "0", black, to "9", white."""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from task import JSON, BadInstance, BadParameter
from task.images import IMAGE_SHAPES, read_image

SIDE = 28
SHAPES = f"{IMAGE_SHAPES}, or {SIDE} rows of {SIDE} numbers"


def load(folder: Path, device: torch.device) -> "Toy":
    """Load the class centres, (10,) grey levels, and their labels."""
    centres = load_file(folder / "weights.safetensors")["centres"].to(device)
    return Toy(centres, json.loads((folder / "labels.json").read_text()))


class Toy:
    """Scores each class by the distance of its centre from the mean grey level."""

    accepts = ("image/png", "image/jpeg")

    def __init__(self, centres: Tensor, labels: list[str]) -> None:
        self.centres, self.labels = centres, labels

    def preprocess(self, instance: JSON) -> Tensor:
        """Return (1, 28, 28) uint8; raise BadInstance."""
        match instance:
            case list(rows) | {"data": list(rows)}:
                return _read_rows(rows)
        image = read_image(instance, draft_side=SIDE, expected=SHAPES)
        pixels = image.resize((SIDE, SIDE), Image.Resampling.BOX).tobytes()
        return torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(1, SIDE, SIDE)

    def inference(self, batch: Tensor) -> Tensor:
        """Return (N, 10) probabilities for (N, 1, 28, 28) uint8."""
        means = batch.float().mean(dim=(1, 2, 3))
        return (-(means[:, None] - self.centres).abs() / 4).softmax(dim=1)

    def postprocess(self, row: Tensor, parameters: dict[str, JSON]) -> dict[str, Any]:
        """Return the label, its score and the top k scores."""
        scores, classes = row.topk(_read_top_k(parameters))
        names = [self.labels[index] for index in classes.tolist()]
        ranked = dict(zip(names, (round(score, 6) for score in scores.tolist()), strict=True))
        return {"label": names[0], "score": ranked[names[0]], "scores": ranked}

    def explain(self, sample: Tensor, parameters: dict[str, JSON]) -> dict[str, Any]:
        """Return the prediction, and the gradient of its score by each pixel, (28, 28)."""
        pixels = sample.float().requires_grad_()
        row = self.inference(pixels[None])[0]
        (gradients,) = torch.autograd.grad(row.max(), pixels)
        return {**self.postprocess(row.detach(), parameters), "gradients": gradients[0]}


def _read_rows(rows: list[JSON]) -> Tensor:
    if len(rows) == 1:
        rows = rows[0]
    if len(rows) != SIDE:
        raise BadInstance(f"expected {SIDE} rows of {SIDE} numbers; got {len(rows)} rows")
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != SIDE:
            raise BadInstance(f"row {index}: expected {SIDE} numbers; got {len(row)}")
        if not all(type(value) in (int, float) for value in row):
            raise BadInstance(f"row {index}: expected numbers")
    return torch.tensor(rows, dtype=torch.float32).to(torch.uint8).unsqueeze(0)


def _read_top_k(parameters: dict[str, JSON]) -> int:
    if unknown := parameters.keys() - {"top_k"}:
        raise BadParameter(f"{min(unknown)}: unknown parameter; expected top_k")
    top_k = parameters.get("top_k", 3)
    if type(top_k) not in (int, float) or top_k != top_k // 1 or top_k < 1:
        raise BadParameter(f"top_k: expected a whole number of at least 1; got {json.dumps(top_k)}")
    return int(min(top_k, 10))
