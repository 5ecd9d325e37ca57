"""Train the classifier on scikit-learn's breast cancer data, and print its accuracy."""

import argparse
from pathlib import Path

import torch
from network import FEATURES, LABELS, build_network
from safetensors.torch import save_file
from sklearn.datasets import load_breast_cancer
from torch.nn.functional import cross_entropy

STEPS, HELD_OUT = 300, 100


def main() -> None:
    """Write weights.safetensors into --out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out = parser.parse_args().out
    torch.manual_seed(0)
    data = load_breast_cancer()
    assert tuple(data.target_names) == LABELS
    order = torch.randperm(len(data.target))
    features = torch.tensor(data.data[:, :FEATURES], dtype=torch.float32)[order]
    targets = torch.tensor(data.target)[order]
    network = build_network()
    optimizer = torch.optim.AdamW(network.parameters(), 0.01, weight_decay=0.1)
    for _ in range(STEPS):
        loss = cross_entropy(network(features[HELD_OUT:]), targets[HELD_OUT:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        correct = network.eval()(features[:HELD_OUT]).argmax(1) == targets[:HELD_OUT]
    print(f"{correct.float().mean():.0%} of {HELD_OUT} held out")
    out.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), out / "weights.safetensors")


if __name__ == "__main__":
    main()
