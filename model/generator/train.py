"""Train the generator on the manual of Python that Python itself contains."""

import argparse
import random
import re
from pathlib import Path
from pydoc_data.topics import topics

import torch
from network import CHARACTERS, TextNet
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

BATCH_SIZE, LENGTH, LEARNING_RATE = 64, 128, 8e-3


def main() -> None:
    """Write weights.safetensors into --out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--steps", type=int, default=1500, help="default: %(default)s")
    args = parser.parse_args()
    torch.manual_seed(0)
    random.seed(0)
    text = re.sub(r" *\n *(?=\w)", " ", "\n".join(topics.values()))
    tokens = torch.tensor([CHARACTERS.index(each) for each in text if each in CHARACTERS])
    net = TextNet()
    optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, args.steps)
    for step in range(args.steps):
        starts = random.sample(range(len(tokens) - LENGTH), BATCH_SIZE)
        batch = torch.stack([tokens[start : start + LENGTH + 1] for start in starts])
        logits, _ = net(batch[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss:.3f}", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    weights = {name: each.half().contiguous() for name, each in net.state_dict().items()}
    save_file(weights, args.out / "weights.safetensors")


if __name__ == "__main__":
    main()
