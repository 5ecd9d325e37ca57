"""Generate text: parameters that the model reads, a seed, and a stream of the characters."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from network import CHARACTERS, TextNet
from parameters import Parameters, read_parameters
from safetensors.torch import load_file
from torch import Tensor

from task import BadInstance, pad

MAX_PROMPT_CHARS = 2000


def load(folder: Path, device: torch.device) -> "Generator":
    """Load the network's weights from a folder onto a device."""
    network = TextNet()
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    return Generator(network.eval().to(device))


class Generator:
    """Continues a text, a character at a time."""

    collate, accepts = staticmethod(pad), ("text/plain",)

    def __init__(self, model: TextNet) -> None:
        self.model = model

    def preprocess(self, instance: str, parameters: Parameters) -> dict[str, Any]:
        """Return the tokens of the prompt, (L,), where the result starts and ends, and the parameters."""
        if not 0 < len(instance) <= MAX_PROMPT_CHARS or not set(instance) <= set(CHARACTERS):
            raise BadInstance(f"expected 1 to {MAX_PROMPT_CHARS} printable ASCII characters")
        tokens = torch.tensor([CHARACTERS.index(each) for each in instance])
        count, temperature, seed = read_parameters(parameters)
        span = {"start": len(tokens), "end": len(tokens) + count}
        return {"prompt": tokens, **span, "temperature": temperature, "seed": seed}

    def size(self, sample: dict[str, Any]) -> int:
        """Return the number of steps: texts of like length share a pass."""
        return int(sample["end"])

    def inference(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """Return the tokens of each text, without those of its prompt."""
        steps = islice(self.model.generate(batch), int(batch["end"].max()))
        texts, starts, ends = torch.stack(list(steps), 1), batch["start"], batch["end"]
        return [text[a:b] for text, a, b in zip(texts, starts, ends, strict=True)]

    def postprocess(self, output: Tensor) -> str:
        """Return the text that continues the prompt."""
        return "".join(CHARACTERS[token] for token in output)

    def stream(self, sample: dict[str, Any]) -> Iterator[str]:
        """Yield each character as soon as it is known."""
        steps = self.model.generate(pad([sample]))
        return (CHARACTERS[tokens[0]] for tokens in islice(steps, sample["start"], sample["end"]))
