"""Measure the ways to run a model's network on this machine, and select the fastest that keeps the predictions.

A task that has the attribute `network` and calls task.backends.load_backend (its docstring shows the three lines) gets
the selected backend. The network's inputs are those for the instances of requests.json and held-out.json. Other models
run as they are: only their time is measured, which decides the number of workers.

A GPU chooses among its own backends when a worker starts. Here only the precisions that it may use are determined, by
the same comparison: on the CPU with their rounding, or on a GPU with --device cuda.
"""

import argparse
import itertools
import json
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from handler import golden
from handler.collation import build_batch
from handler.golden import GoldenMismatchError
from handler.loading import load_and_check, load_model
from handler.splitting import split_output
from project import cli, weights
from project.model_folder import Model, add_model_option, find_model
from project.weights import make_weights
from serving.archive import BACKEND, collect
from serving.errors import ArchiveError
from task.adapter import AdaptedTask
from task.backends.builders import BASELINE
from task.backends.measure import (
    Measurement,
    Measurements,
    compare_precisions,
    measure_backends,
    measure_ms,
    write_choice,
)
from task.backends.precision import FULL_PRECISION, HALF_PRECISIONS

BATCH_SIZES = (1, 8, 32)
ROUNDS = 25
MAX_SAMPLES = 256
MAX_PASS_S = 2.5
"""Larger batches than those of this duration are not measured."""
MAX_STEP_S = 10
"""The time to run the samples one by one, and that to compare the outputs of the backends."""
MAX_CHECKING_S = 120
"""After this time no other backend is checked by requests.json."""
CPU = torch.device("cpu")


class Call(NamedTuple):
    """A call of the network."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


def export(
    folder: Path,
    out: Path,
    held_out: Path,
    rounds: int = ROUNDS,
    device: torch.device = CPU,
) -> Measurements:
    """Measure the model in the folder of an unpacked archive, and write the choice to OUT/backend.json.

    A backend or precision with which requests.json does not get the expected predictions is not chosen. The precisions
    are compared on `device`.
    """
    model = load_model(folder, CPU)
    samples = list(_preprocess(model, held_out))
    torch.set_num_threads(1)
    calls, pass_s = _run_alone(model, samples)
    sizes = [size for size in BATCH_SIZES if size == 1 or size * pass_s <= MAX_PASS_S]
    classes = len(model.labels)
    obstacle, slow = find_obstacle(model, folder, calls), ""
    if pass_s > MAX_PASS_S:
        slow = f"a pass takes {pass_s:.1f} s, too long for a comparison"
    if obstacle or slow:
        measurements = measure_model(model, samples[0], sizes, rounds)
        measurements = measurements.reject("other backends", obstacle or slow)
    else:
        inputs = [call.args[0] for [call] in calls]
        count = max(*sizes, min(len(inputs), int(MAX_STEP_S / pass_s)))
        repeated = torch.cat(list(itertools.islice(itertools.cycle(inputs), count)))
        measurements = measure_backends(model.network, repeated, sizes, rounds, classes=classes)
    if slow and device == CPU:
        reasons = dict.fromkeys(HALF_PRECISIONS, f"{slow}; use --device cuda")
        measurements = measurements._replace(precisions={FULL_PRECISION: ""} | reasons)
    elif not obstacle:
        count = max(int(MAX_STEP_S / pass_s), 1)
        distinct = torch.cat([call.args[0] for [call] in calls[:count]]).to(device)
        network = model.network if device == CPU else load_model(folder, device).network
        precisions = compare_precisions(network, distinct, classes=classes)
        precisions = check_precisions(precisions, folder, device)
        measurements = measurements._replace(precisions=precisions)
    measurements = check_requests(measurements, folder)
    measurements.write(out)
    return measurements


def find_obstacle(model: AdaptedTask, folder: Path, calls: list[list[Call]]) -> str:
    """Return why the network cannot have another backend, or "".

    `calls` has, for each sample, the calls of the network.
    """
    if not isinstance(model.network, nn.Module):
        return "the task has no attribute `network`"
    if not any("load_backend(" in file.read_text() for file in folder.glob("*.py")):
        return "the task does not call task.backends.load_backend"
    if any(len(each) != 1 for each in calls):
        return f"inference calls the network {len(calls[0])} times for an instance, expected once"
    obstacles = filter(None, [_find_obstacle(call) for [call] in calls])
    if obstacle := next(obstacles, ""):
        return obstacle
    shapes = sorted({tuple(call.args[0].shape) for [call] in calls})
    if len(shapes) > 1:
        return f"the network's inputs differ in shape: {shapes[0]} and {shapes[1]}"
    return ""


def _find_obstacle(call: Call) -> str:
    inputs = [*call.args, *call.kwargs.values()]
    if len(call.args) != 1 or call.kwargs or not isinstance(inputs[0], Tensor):
        types = [type(each).__name__ for each in inputs]
        return f"the network takes {' and '.join(types) or 'nothing'}, expected one Tensor"
    if not isinstance(call.output, Tensor):
        return f"the network returns {type(call.output).__name__}, expected Tensor"
    rows = [tuple(each.shape) for each in (inputs[0], call.output)]
    if any(shape[:1] != (1,) for shape in rows):
        return f"the network takes {rows[0]} and returns {rows[1]}, expected N first in both"
    return ""


def check_requests(measurements: Measurements, folder: Path) -> Measurements:
    """Reject each best backend, until requests.json gets the expected predictions or only the baseline is left."""
    began = time.monotonic()
    while (name := measurements.best) != BASELINE:
        if time.monotonic() - began > MAX_CHECKING_S:
            measurements = measurements.reject(name, "the requests take too long to check it")
            continue
        measurements.write(folder)
        try:
            load_and_check(folder, CPU, each_alone=True)
        except GoldenMismatchError as error:
            measurements = measurements.reject(name, str(error))
        else:
            break
    return measurements


def check_precisions(
    precisions: Mapping[str, str], folder: Path, device: torch.device
) -> dict[str, str]:
    """Reject the precisions with which requests.json does not get the expected predictions."""
    checked = dict(precisions)
    began = time.monotonic()
    for name in HALF_PRECISIONS:
        if checked[name]:
            continue
        if time.monotonic() - began > MAX_CHECKING_S:
            checked[name] = "the requests take too long to check it"
            continue
        write_choice(folder, name if device == CPU else BASELINE, [name], {})
        try:
            golden.check(load_model(folder, device), each_alone=True)
        except GoldenMismatchError as error:
            checked[name] = str(error)
    (folder / BACKEND).unlink(missing_ok=True)
    return checked


def measure_model(model: AdaptedTask, sample: Any, sizes: list[int], rounds: int) -> Measurements:
    """Measure passes of the model as it is, on one thread."""
    median_ms = {}
    with torch.inference_mode():
        for size in sizes:
            run = {BASELINE: lambda samples: _run_pass(model, samples)}
            median_ms[size] = round(measure_ms(run, [sample] * size, rounds)[BASELINE], 4)
    return Measurements({BASELINE: Measurement(median_ms, 0, 0)}, {})


def _run_pass(model: AdaptedTask, samples: list[Any]) -> None:
    split_output(model.inference(build_batch(model, samples)), len(samples))


def _run_alone(model: AdaptedTask, samples: list[Any]) -> tuple[list[list[Call]], float]:
    """Run samples one by one, the first twice, within MAX_STEP_S.

    Returns the calls of the network for each sample, and the seconds of the fastest pass.
    """
    calls: list[Call] = []
    by_sample: list[list[Call]] = []
    times_s: list[float] = []

    def record(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        calls.append(Call(args, kwargs, output))

    hook = None
    if isinstance(model.network, nn.Module):
        hook = model.network.register_forward_hook(record, with_kwargs=True)
    with torch.inference_mode():
        for sample in (samples[0], *samples):
            calls.clear()
            began = time.monotonic()
            _run_pass(model, [sample])
            times_s.append(time.monotonic() - began)
            by_sample.append(calls.copy())
            if sum(times_s) > MAX_STEP_S and len(times_s) > 1:
                break
    if hook is not None:
        hook.remove()
    return by_sample[1:], min(times_s)


def _preprocess(model: AdaptedTask, held_out: Path) -> Iterator[Any]:
    """Yield samples of the requests and the held-out instances."""
    rows = json.loads(held_out.read_bytes()) if held_out.is_file() else []
    instances = [(each.instance, each.parameters) for each in model.examples]
    instances += [(row["instance"], row.get("parameters") or {}) for row in rows]
    for instance, parameters in instances[:MAX_SAMPLES]:
        yield model.preprocess(instance, parameters)


def main() -> None:
    """Measure the model that MODEL selects, and print the result."""
    parser = argparse.ArgumentParser(
        prog="python -m authoring.export", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add_model_option(parser)
    add("--rounds", type=int, default=ROUNDS, help="passes per backend (default: %(default)s)")
    add(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where the precisions for a GPU are compared (default: %(default)s)",
    )
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds: expected 1 or more")
    device = torch.device(args.device)
    if device != CPU and not torch.cuda.is_available():
        parser.error(
            "--device cuda: torch finds no GPU; it needs NVIDIA's driver and a torch built for CUDA"
        )
    cli.run(
        "authoring.export",
        lambda: _measure(find_model(args.model), args.rounds, device),
        ArchiveError,
    )


def _measure(model: Model, rounds: int, device: torch.device) -> None:
    if model.is_archive:
        raise cli.ProjectError(f"{model.path} is a ready archive; expected the folder of a model")
    if weights.are_missing(model):
        make_weights(model, [])
    with tempfile.TemporaryDirectory(prefix="export-") as scratch:
        contents = Path(scratch) / "contents"
        collect(model, contents)
        (contents / BACKEND).unlink(missing_ok=True)
        model.build.mkdir(parents=True, exist_ok=True)
        measurements = export(contents, model.build, model.held_out, rounds, device)
        print(f"{measurements.format_table()}\n{model.build / BACKEND}")
        if device != CPU:  # logs what a worker would choose there, with the times
            logging.basicConfig(level=logging.INFO, format="%(message)s")
            measurements.write(contents)
            load_model(contents, device)


if __name__ == "__main__":
    main()
