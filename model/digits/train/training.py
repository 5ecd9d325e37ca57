"""Draw images of the examples and train the network on them."""

import os

import torch
from network import SIDE, DigitNet
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader
from tqdm import tqdm

from train.data import Example
from train.drawing import draw_images, to_fields

BATCH_SIZE = 128
LEARNING_RATE, WEIGHT_DECAY = 4e-3, 0.02
LABEL_SMOOTHING = 0.1
"""Label smoothing lowers the scores of unfamiliar images."""
BLANK_SHARE = 0.01
"""The share of blank images, whose target gives every label the same probability."""
PROGRESS_INTERVAL_S = 1
"""Time between two updates of a progress bar. A log file keeps every update."""


def draw_examples(examples: list[Example], count: int) -> tuple[Tensor, Tensor]:
    """Return `count` images, (N, 1, 28, 28) uint8, and their targets (N,)."""
    fields = torch.stack([to_fields(example.image) for example in examples])
    targets = torch.tensor([example.target for example in examples])
    chosen = torch.randint(len(examples), (count,))
    loader: DataLoader[Tensor] = DataLoader(
        torch.split(chosen, BATCH_SIZE),  # type: ignore[arg-type]  # any sequence is accepted
        batch_size=None,
        num_workers=min(os.cpu_count() or 1, 8),
        collate_fn=lambda part: draw_images(fields[part]),
    )
    images = torch.cat(list(tqdm(loader, "drawing", mininterval=PROGRESS_INTERVAL_S)))
    return images.unsqueeze(1), targets[chosen]


def train_network(images: Tensor, targets: Tensor, classes: int, epochs: int) -> DigitNet:
    """Return a new network, trained on (N, 1, 28, 28) uint8 images and their (N,) targets."""
    net: DigitNet = DigitNet(classes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=WEIGHT_DECAY)
    orders = [torch.randperm(len(images)) for _ in range(epochs)]
    batches = [part for order in orders for part in torch.split(order, BATCH_SIZE)]
    schedule = OneCycleLR(optimizer, LEARNING_RATE, total_steps=len(batches))
    # bfloat16 halves the time on a processor that supports it.
    bfloat16 = torch.cpu.get_capabilities().get("avx512_bf16", False)
    for batch in tqdm(batches, "training", mininterval=PROGRESS_INTERVAL_S):
        ink = _erase_patches(images[batch] / 255)
        expected = one_hot(targets[batch], classes).float()
        blank = torch.rand(len(batch)) < BLANK_SHARE
        ink[blank], expected[blank] = 0, 1 / classes
        with torch.autocast("cpu", enabled=bfloat16):
            logits = net(ink)
        loss = cross_entropy(logits.float(), expected, label_smoothing=LABEL_SMOOTHING)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    net.eval()
    return net


def _erase_patches(ink: Tensor) -> Tensor:
    """Erase a small rectangle from every second image, so that no label depends on a single detail."""
    reach = torch.randint(2, 5, (len(ink), 2, 1))
    middle = torch.randint(4, SIDE - 4, (len(ink), 2, 1))
    inside = (torch.arange(SIDE) - middle).abs() < reach
    patch = inside[:, 0, :, None] & inside[:, 1, None, :] & (torch.rand(len(ink), 1, 1) < 0.5)
    return ink.masked_fill(patch.unsqueeze(1), 0)
