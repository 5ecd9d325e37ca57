"""The handler of the stock archive, based on TorchServe's BaseHandler."""

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import PredictionException


class MNISTDigitClassifier(BaseHandler):  # type: ignore[misc]
    """Accepts images as bytes (the envelope's {"b64": ...}), under `data`, or as rows of pixels."""

    def initialize(self, context: Any) -> None:
        """Keep the context and what is kept in it, as `handle` gets the same one in TorchServe."""
        super().initialize(context)
        self.own_context = context
        context.cache = {"rows": 0}

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        """Count the rows in the context."""
        context.cache["rows"] += len(data)
        assert self.own_context.get_request_id(0) is not None
        answers: list[Any] = super().handle(data, context)
        return answers

    def preprocess(self, data: list[Any]) -> Tensor:
        """Return the images as N x 1 x 28 x 28."""
        images = []
        for row in data:
            image = row.get("data") if isinstance(row, dict) else row
            if image == "unknown customer":
                raise PredictionException(image, 404)
            if isinstance(image, (bytes, bytearray)):
                opened = Image.open(io.BytesIO(image)).convert("L").resize((28, 28))
                pixels = torch.from_numpy(np.asarray(opened, dtype=np.float32)) / 255
            else:
                pixels = torch.tensor(image, dtype=torch.float32).reshape(28, 28)
            images.append((pixels.unsqueeze(0) - 0.1307) / 0.3081)
        return torch.stack(images).to(self.device)

    def postprocess(self, data: Tensor) -> list[Any]:
        """Return each label and its probabilities."""
        probabilities = data.exp()
        return [
            {"label": int(row.argmax()), "scores": [round(p, 4) for p in row.tolist()]}
            for row in probabilities
        ]

    def get_insights(self, tensor_data: Tensor, _raw: Any, target: int = 0) -> list[Any]:
        """Return the gradient of a label's score by the pixels of each row."""
        pixels = tensor_data.detach().requires_grad_()
        self.model(pixels)[:, target].sum().backward()
        assert pixels.grad is not None
        rows: list[Any] = pixels.grad.sum(dim=(1, 2)).tolist()
        return rows
