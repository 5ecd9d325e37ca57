"""Measure the ways to run a model's network on this machine, and select the fastest that keeps the predictions.

The network is the task's attribute `network`, and its inputs are those that it gets for the instances of requests.json
and held-out.json. A model without the attribute runs as it is: only its time is measured, which decides the number of
workers.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from handler.collation import build_batch
from handler.loading import load_model
from project.model_folder import ModelFolderError, add_model_option, find_model
from serving.archive import BACKEND, collect
from serving.errors import ArchiveError
from task.backends.builders import BASELINE
from task.backends.measure import Measurement, Measurements, measure_backends, measure_ms

BATCH_SIZES = (1, 8, 32)
ROUNDS = 25


def export(folder: Path, out: Path, held_out: Path, rounds: int = ROUNDS) -> Measurements:
    """Measure the model in the folder of an unpacked archive, and write the choice to OUT/backend.json."""
    model = load_model(folder, torch.device("cpu"))
    samples = _preprocess(model, held_out)
    inputs = capture_inputs(model, samples)
    if inputs is None:
        measurements = measure_model(model, samples, rounds)
    else:
        classifies = bool(model.labels)
        measurements = measure_backends(
            model.network, inputs, BATCH_SIZES, rounds, classifies=classifies
        )
    measurements.write(out)
    return measurements


def capture_inputs(model: Any, samples: list[Any]) -> Tensor | None:
    """Return the network's inputs for the samples; None if there is no network, or it takes more than a tensor."""
    if not isinstance(model.network, nn.Module):
        return None
    captured: list[Any] = []
    hook = model.network.register_forward_pre_hook(
        lambda _module, args, kwargs: captured.append((args, kwargs)), with_kwargs=True
    )
    try:
        with torch.inference_mode():
            for sample in samples:
                model.inference(build_batch(model, [sample]))
    finally:
        hook.remove()
    inputs = [args[0] for args, kwargs in captured if len(args) == 1 and not kwargs]
    is_fixed = len(inputs) == len(samples) and all(
        isinstance(each, Tensor) and each.shape == inputs[0].shape for each in inputs
    )
    return torch.cat(inputs) if is_fixed else None


def measure_model(model: Any, samples: list[Any], rounds: int) -> Measurements:
    """Measure passes of the model as it is, on one thread."""
    torch.set_num_threads(1)
    median_ms = {}
    with torch.inference_mode():
        for size in BATCH_SIZES:
            batch = build_batch(model, samples[:1] * size)
            times = measure_ms({BASELINE: model.inference}, batch, rounds)
            median_ms[size] = round(times[BASELINE], 4)
    return Measurements({BASELINE: Measurement(median_ms, 0, 0)}, {})


def _preprocess(model: Any, held_out: Path) -> list[Any]:
    """Return samples of the requests and the held-out instances, at least as many as the largest batch."""
    rows = json.loads(held_out.read_text()) if held_out.is_file() else []
    instances = [(each.instance, each.parameters) for each in model.examples]
    instances += [(row["instance"], {}) for row in rows]
    samples = [model.preprocess(*each) for each in instances]
    return samples * -(-max(BATCH_SIZES) // len(samples))


def main() -> None:
    """Measure the model that MODEL selects, and print the result."""
    parser = argparse.ArgumentParser(
        prog="python -m authoring.export", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add_model_option(parser)
    add("--rounds", type=int, default=ROUNDS, help="passes per backend (default: %(default)s)")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds: expected 1 or more")
    try:
        model = find_model(args.model)
        with tempfile.TemporaryDirectory(prefix="export-") as scratch:
            contents = Path(scratch) / "contents"
            collect(model, contents)
            (contents / BACKEND).unlink(missing_ok=True)
            model.build.mkdir(parents=True, exist_ok=True)
            measurements = export(contents, model.build, model.held_out, args.rounds)
    except (ModelFolderError, ArchiveError) as error:
        sys.exit(f"authoring.export: {error}")
    print(f"{measurements.format_table()}\n{model.build / BACKEND}")


if __name__ == "__main__":
    main()
