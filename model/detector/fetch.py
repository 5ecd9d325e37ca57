"""Take the weights of MTCNN out of the package facenet-pytorch, and name them as our network does."""

import argparse
import io
from pathlib import Path

import torch
from network import FaceNet
from safetensors.torch import save_file
from torch import Tensor

from project.wheels import open_wheel

PACKAGE = "facenet-pytorch==2.6.0"
SHA256 = "ecb82b27beb226d106f2219efe8f829b01b87a8595badd01545679bdb9f19cca"


def main() -> None:
    """Write mtcnn.safetensors into --out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    network = FaceNet()
    stages = {"pnet": network.propose, "rnet": network.refine, "onet": network.finish}
    with open_wheel(PACKAGE, SHA256) as wheel:
        for name, stage in stages.items():
            content = wheel.read(f"facenet_pytorch/data/{name}.pt")
            theirs = torch.load(io.BytesIO(content), weights_only=True)
            # The order is the same; the last stage has more at its end, which finds eyes, nose and mouth.
            ours = stage.state_dict()
            pairs = zip(ours.values(), theirs.values(), strict=False)
            stage.load_state_dict(
                dict(zip(ours, (reorder(b, a.shape) for a, b in pairs), strict=True))
            )
    out.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), out / "mtcnn.safetensors")


def reorder(weight: Tensor, shape: torch.Size) -> Tensor:
    """Return the weight of a layer; the package flattens (width, height, channels), torch the reverse."""
    sides = {576: (3, 3, 64), 1152: (3, 3, 128)}.get(shape[-1])
    return weight.unflatten(1, sides).permute(0, 3, 2, 1).flatten(1) if sides else weight


if __name__ == "__main__":
    main()
