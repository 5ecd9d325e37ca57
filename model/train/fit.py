"""Fit the network to drawn digits."""

import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from model.network import DigitNet
from model.train.augment import fields, pictures
from model.train.data import Example

BATCH = 128
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 0.02
SMOOTHING = 0.1
"""The share of certainty that a target gives away, so that scores stay modest off the known."""
BLANK = 0.01
"""One picture in so many hundred is empty, and tells that no label is the likelier one."""


def draw_all(
    examples: list[Example], count: int, seed: int, processes: int
) -> tuple[Tensor, Tensor]:
    """Draw `count` pictures of the examples, each as often: (count, 1, 28, 28) uint8, (count,)."""
    rng = torch.Generator().manual_seed(seed)
    rounds = [
        torch.randperm(len(examples), generator=rng) for _ in range(-(-count // len(examples)))
    ]
    order = torch.cat(rounds)[:count]
    all_fields = torch.stack([fields(example.picture) for example in examples])
    targets = torch.tensor([example.target for example in examples])
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        chunks = [
            pool.submit(_drawn, all_fields[chunk].numpy(), seed * 1_000_003 + number)
            for number, chunk in enumerate(torch.split(order, 1000))
        ]
        bar = tqdm(chunks, desc="drawing ", bar_format=BAR, mininterval=_interval_s())
        drawn = torch.cat([torch.from_numpy(chunk.result()) for chunk in bar])
    return drawn.unsqueeze(1), targets[order]


BAR = "{desc} {bar:40} {percentage:3.0f}% {elapsed}, {remaining} left{postfix}"


def _interval_s() -> float:
    """Return the seconds between two bars: a log keeps each of them, a terminal only the last."""
    return 0.1 if sys.stderr.isatty() else 10


def _drawn(some: npt.NDArray[np.float32], seed: int) -> npt.NDArray[np.uint8]:
    torch.set_num_threads(1)
    drawn: npt.NDArray[np.uint8] = pictures(torch.from_numpy(some), seed).numpy()
    return drawn


def fit(drawn: Tensor, targets: Tensor, classes: int, epochs: int, seed: int) -> DigitNet:
    """Train a new network for some epochs; the same seed and threads give the same weights."""
    torch.manual_seed(seed)
    net: DigitNet = DigitNet(classes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=WEIGHT_DECAY)
    steps = epochs * (len(drawn) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    with tqdm(total=steps, desc="training", bar_format=BAR, mininterval=_interval_s()) as bar:
        for batch in _batches(len(drawn), epochs):
            loss = _loss(net, drawn[batch], targets[batch], classes)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            bar.update()
            bar.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)
    net.eval()
    return net


def _batches(count: int, epochs: int) -> Iterator[Tensor]:
    for _ in range(epochs):
        yield from torch.randperm(count)[: count // BATCH * BATCH].view(-1, BATCH)


def _loss(net: nn.Module, drawn: Tensor, targets: Tensor, classes: int) -> Tensor:
    ink = _with_a_gap(drawn.float() / 255)
    wanted = nn.functional.one_hot(targets, classes).float()
    blank = torch.rand(len(ink), 1, 1, 1) < BLANK
    ink = ink.masked_fill(blank, 0)
    wanted = torch.where(blank.view(-1, 1), 1 / classes, wanted)
    return nn.functional.cross_entropy(net(ink), wanted, label_smoothing=SMOOTHING)


def _with_a_gap(ink: Tensor) -> Tensor:
    """Wipe a small rectangle out of every second picture: no label may hang on one detail."""
    count, side = len(ink), ink.shape[-1]
    reach = torch.randint(2, 5, (count, 2, 1))
    middle = torch.randint(4, side - 4, (count, 2, 1))
    inside = (torch.arange(side) - middle).abs() < reach
    gap = inside[:, 0, :, None] & inside[:, 1, None, :]
    gap &= torch.rand(count, 1, 1) < 0.5
    return ink.masked_fill(gap.unsqueeze(1), 0)
