"""Draw pictures of the examples and fit the network to them."""

import os

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader
from tqdm import tqdm

from model.network import SIDE, DigitNet
from model.train.data import Example
from model.train.draw import draw, fields

BATCH = 128
LEARNING_RATE, WEIGHT_DECAY = 4e-3, 0.02
SMOOTHING = 0.1
"""Label smoothing keeps the scores of unfamiliar pictures modest."""
BLANK = 0.01
"""The share of blank pictures, in which every label is equally likely."""
UPDATE_S = 1
"""Between two updates of a progress bar: a log file keeps each of them."""


def draw_all(examples: list[Example], count: int) -> tuple[Tensor, Tensor]:
    """Draw `count` pictures: (N, 1, 28, 28) uint8 and their targets (N,)."""
    every = torch.stack([fields(example.picture) for example in examples])
    targets = torch.tensor([example.target for example in examples])
    chosen = torch.randint(len(examples), (count,))
    loader: DataLoader[Tensor] = DataLoader(
        torch.split(chosen, BATCH),  # type: ignore[arg-type]  # any sequence serves
        batch_size=None,
        num_workers=min(os.cpu_count() or 1, 8),
        collate_fn=lambda part: draw(every[part]),
    )
    drawn = torch.cat(list(tqdm(loader, "drawing", mininterval=UPDATE_S)))
    return drawn.unsqueeze(1), targets[chosen]


def fit(drawn: Tensor, targets: Tensor, classes: int, epochs: int) -> DigitNet:
    """Train a new network."""
    net: DigitNet = DigitNet(classes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=WEIGHT_DECAY)
    batches = [
        part for _ in range(epochs) for part in torch.split(torch.randperm(len(drawn)), BATCH)
    ]
    schedule = OneCycleLR(optimizer, LEARNING_RATE, total_steps=len(batches))
    # Half the time where the processor has bfloat16.
    bfloat16 = torch.cpu.get_capabilities().get("avx512_bf16", False)
    for batch in tqdm(batches, "training", mininterval=UPDATE_S):
        ink = _erase_patches(drawn[batch] / 255)
        wanted = nn.functional.one_hot(targets[batch], classes).float()
        blank = torch.rand(len(batch)) < BLANK
        ink[blank], wanted[blank] = 0, 1 / classes
        with torch.autocast("cpu", enabled=bfloat16):
            logits = net(ink)
        loss = nn.functional.cross_entropy(logits.float(), wanted, label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    net.eval()
    return net


def _erase_patches(ink: Tensor) -> Tensor:
    """Erase a small rectangle from every second picture, so that no label depends on one detail."""
    reach = torch.randint(2, 5, (len(ink), 2, 1))
    middle = torch.randint(4, SIDE - 4, (len(ink), 2, 1))
    inside = (torch.arange(SIDE) - middle).abs() < reach
    patch = inside[:, 0, :, None] & inside[:, 1, None, :] & (torch.rand(len(ink), 1, 1) < 0.5)
    return ink.masked_fill(patch.unsqueeze(1), 0)
