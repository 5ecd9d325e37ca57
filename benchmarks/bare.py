"""Predict without a server: the loop that the ceiling, the peers and stock TorchServe run around a model.

Batches are built and split by the handler's own functions, so that every kind of model runs. Requests are not
validated, a failure is that of the whole batch, and there are no time limits.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch

from handler.collation import build_batch, measure, plan_passes
from handler.loading import load_and_check, load_model
from handler.splitting import split_output
from task.adapter import AdaptedTask


def load(folder: Path, device: str = "cpu") -> AdaptedTask:
    """Load the model in the folder of an unpacked archive."""
    return load_model(folder, torch.device(device))


def load_measured(folder: Path, device: str) -> AdaptedTask:
    """Load the model, and measure its passes on a GPU, as the handler does."""
    return load_and_check(folder, torch.device(device))


def predict(
    task: AdaptedTask,
    bodies: list[dict[str, Any]],
    *,
    plans_passes: bool = False,
    threads: int = 1,
) -> list[list[Any]]:
    """Return the predictions of each request, from as few passes as possible.

    With `plans_passes`, samples of like size share a pass, and a pass has no more samples than are faster together,
    as in the handler. Without it all samples share a pass, padded to the largest, as `collate` is used elsewhere.
    `threads` preprocess.
    """
    pairs = [
        (instance, body.get("parameters") or {})
        for body in bodies
        for instance in body["instances"]
    ]
    apply = _create_pool(threads).map if threads > 1 < len(pairs) else map
    samples = list(apply(task.preprocess, *zip(*pairs, strict=True)))
    is_grouped = plans_passes and task.size is not None
    sizes = [measure(task, sample) for sample in samples] if is_grouped else None
    outputs: dict[int, Any] = {}
    with torch.inference_mode():
        for indexes in plan_passes(
            task,
            samples,
            list(range(len(samples))),
            sizes,
            task.max_samples if plans_passes else None,
        ):
            output = task.inference(build_batch(task, [samples[index] for index in indexes]))
            outputs |= zip(indexes, split_output(output, len(indexes)), strict=True)
        predictions = iter(
            [task.postprocess(outputs[index], pair[1]) for index, pair in enumerate(pairs)]
        )
    return [[next(predictions) for _ in body["instances"]] for body in bodies]


@cache
def _create_pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)
