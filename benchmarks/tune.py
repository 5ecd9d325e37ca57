"""Find the fastest worker layout for this machine and model, and write it to model-config.yaml in the model's folder.

It tries workers x threads, then batch sizes, then batch delays. Two layouts run at the same time and are
measured in turn, so that other load on the machine affects both. The search starts with the default
layout for these cores and GPUs; a candidate replaces the best layout only if it is clearly better.
On a GPU each of the two layouts has half of the memory.
"""

import argparse
import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.errors import BenchmarkError
from benchmarks.load import LoadResult, median, warm_up
from benchmarks.options import positive_float, positive_int
from benchmarks.servers import RunningServer, our_spec, run_server
from benchmarks.workloads import Workload, select_workload, write_bodies
from project.model_folder import Model, add_model_option
from serving import local, model_config
from serving.errors import ServingError
from serving.gpu import share_gpus
from serving.layout import (
    Layout,
    LayoutError,
    Machine,
    choose_layout,
    max_workers,
    read_machine,
)
from serving.stock import manifest

MIN_IMPROVEMENT = 1.03
"""A candidate must be better by this factor, in the median and in most rounds: less is noise."""
MAX_BATCH_SIZE = 256
BATCH_DELAYS_MS = (2, 5, 10, 20)
GPU_BATCH_DELAYS_MS = (1, 2, 5, 10)
"""A pass on a GPU is shorter than on a CPU."""
MAX_THREADS = 16
MAX_WORKERS_PER_GPU = 4
SETTLE_S = 0.3

Measure = Callable[[Layout, Layout], list[list[LoadResult]]]
"""Measures two layouts; returns the results of each layout's rounds."""


class Objective(NamedTuple):
    """The criterion by which layouts are compared."""

    clients: int
    max_p99_ms: float
    latency: bool
    """Minimise the median latency, instead of maximising throughput within max_p99_ms."""

    def is_better(self, candidate: LoadResult, best: LoadResult) -> bool:
        """Return whether a candidate's result is clearly better; never if it has failed or no answers."""
        usable = is_usable(candidate)
        if not usable or not is_usable(best):
            return usable and not is_usable(best)
        if self.latency:
            return candidate.p50_ms * MIN_IMPROVEMENT < best.p50_ms
        allowed = candidate.p99_ms <= self.max_p99_ms
        if allowed != (best.p99_ms <= self.max_p99_ms):
            return allowed
        if not allowed:
            return candidate.p99_ms * MIN_IMPROVEMENT < best.p99_ms
        return candidate.requests_per_s > best.requests_per_s * MIN_IMPROVEMENT


def is_usable(result: LoadResult) -> bool:
    """Return whether there were answers, and all of them predictions."""
    return result.requests_per_s > 0 and not result.failed


class Tuner:
    """Compares candidates with the best layout so far."""

    def __init__(self, initial: Layout, objective: Objective, measure: Measure) -> None:
        self.best, self.objective, self._measure = initial, objective, measure
        self.result: LoadResult | None = None
        """The result of the best layout; None until a candidate was compared with it."""

    def compare(self, candidate: Layout) -> bool:
        """Measure a candidate and the best layout; return whether the candidate replaces it."""
        if candidate == self.best:
            return False
        best_rounds, candidate_rounds = self._measure(self.best, candidate)
        best, result = median(best_rounds), median(candidate_rounds)
        rounds = zip(candidate_rounds, best_rounds, strict=True)
        rounds_won = sum(self.objective.is_better(*each) for each in rounds)
        better = rounds_won * 2 > len(best_rounds) and self.objective.is_better(result, best)
        print(
            f"  {_option(candidate):<10} {_format(result)}   compared with {_option(self.best)} "
            f"{_format(best)}: {'better' if better else 'not better'}",
            flush=True,
        )
        self.result = result if better else best
        self.best = candidate if better else self.best
        return better

    def climb(self, candidates: Iterable[Layout]) -> bool:
        """Compare candidates in order while each is better; return whether the first was better."""
        improved = False
        for candidate in candidates:
            if not self.compare(candidate):
                break
            improved = True
        return improved


def measure_side_by_side(
    *layouts: Layout, workload: Workload, bodies: Path, clients: int, rounds: int, seconds: float
) -> list[list[LoadResult]]:
    """Run a server for each layout at the same time; return the results of its rounds.

    The rounds of slow models are longer than `seconds`. If a layout answers nothing within the longest warm-up,
    the warm-up is the only round.
    """

    def run_load(server: RunningServer, seconds: float) -> LoadResult:
        return server.measure(bodies, clients, seconds, SETTLE_S)

    with contextlib.ExitStack() as stack:
        specs = [our_spec(_option(layout)) for layout in layouts]
        servers = [stack.enter_context(run_server(spec, workload)) for spec in specs]
        warm_ups = [warm_up(partial(run_load, server), clients, seconds) for server in servers]
        if not all(is_usable(result) for result, _ in warm_ups):
            return [[result] for result, _ in warm_ups]
        round_s = max(needed_s for _, needed_s in warm_ups)
        results: list[list[LoadResult]] = [[] for _ in layouts]
        for number in range(rounds):
            order = range(len(servers)) if number % 2 else reversed(range(len(servers)))
            for index in order:
                results[index].append(run_load(servers[index], round_s))
    return results


def worker_thread_pairs(cores: int, max_workers: int) -> list[tuple[int, int]]:
    """Return the (workers, threads) to try: those that use each core once, and those whose workers share the cores."""
    threads = [1 << power for power in range(min(cores, MAX_THREADS).bit_length())]
    pairs = {(max(min(cores // count, max_workers), 1), count) for count in threads}
    shared = (max(min(cores, max_workers), 1), max(threads))
    return [*sorted(pairs, reverse=True), *({shared} - pairs)]


def gpu_worker_thread_pairs(cores: int, gpus: int, max_workers: int) -> list[tuple[int, int]]:
    """Return the (workers, threads) to try: a number of workers on each GPU, which share the cores."""
    counts = (gpus * each for each in range(1, MAX_WORKERS_PER_GPU + 1))
    pairs = [(count, max(cores // count, 1)) for count in counts if count <= max_workers]
    return pairs or [(max_workers, max(cores // max_workers, 1))]


def list_candidates(machine: Machine, model_bytes: int) -> list[tuple[int, int]]:
    """Return the (workers, threads) to try on a machine; `model_bytes` is the size of the model's files."""
    limit = max_workers(machine, model_bytes)
    if machine.gpus:
        return gpu_worker_thread_pairs(machine.cores, len(machine.gpus), limit)
    return worker_thread_pairs(machine.cores, limit)


def search(tuner: Tuner, pairs: Iterable[tuple[int, int]], delays_ms: Iterable[int]) -> None:
    """Compare all candidates: first workers x threads, because the rest depends on them."""
    print("workers x threads:", flush=True)
    for workers, threads in pairs:
        tuner.compare(tuner.best._replace(workers=workers, threads=threads))
    if tuner.objective.clients == 1:
        return  # with one client each batch has one request, which does not wait
    print("batch size:", flush=True)
    initial = tuner.best
    smaller = [initial.batch_size >> power for power in range(1, 9)]
    larger = [initial.batch_size << power for power in range(1, 9)]
    if not tuner.climb(initial._replace(batch_size=n) for n in smaller if n):
        tuner.climb(initial._replace(batch_size=n) for n in larger if n <= MAX_BATCH_SIZE)
    print("batch delay:", flush=True)
    initial = tuner.best
    tuner.climb(initial._replace(batch_delay_ms=ms) for ms in delays_ms)


def choose_initial(machine: Machine, inference_ms: float, model_bytes: int) -> Layout:
    """Return the default layout; raise BenchmarkError if the GPU has no room for it."""
    try:
        return choose_layout(machine, inference_ms, model_bytes)
    except LayoutError as error:
        raise BenchmarkError(
            f"two servers run at a time, with half of the GPU each: {error}"
        ) from error


def halve_memory(machine: Machine) -> Machine:
    """Return what each of the two servers may use: half of the memory of a machine with GPUs, else all of it."""
    if not machine.gpus:
        return machine
    return machine._replace(
        memory_bytes=machine.memory_bytes // 2, gpus=share_gpus(machine.gpus, 2)
    )


def main() -> None:
    """Parse the options, search for the best layout and write it to a file."""
    args = _parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the servers
    latency = args.objective == "latency"
    objective = Objective(1 if latency else args.clients, args.p99_ms, latency)
    try:
        workload = select_workload(args.model)
        machine = read_machine(local.find_gpus(print) or ())
        available = halve_memory(machine)
        model_bytes = manifest.content_bytes(workload.model.archive)
        initial = choose_initial(available, workload.inference_ms, model_bytes)
        measure = partial(
            measure_side_by_side,
            workload=workload,
            bodies=_write_bodies(args.request, workload),
            clients=objective.clients,
            rounds=args.rounds,
            seconds=args.seconds,
        )
        tuner = Tuner(initial, objective, measure)
        print(f"{workload.name}: {machine}; initial layout: {initial}", flush=True)
        started = time.monotonic()
        delays_ms = GPU_BATCH_DELAYS_MS if machine.gpus else BATCH_DELAYS_MS
        search(tuner, list_candidates(available, model_bytes), delays_ms)
        result = _get_result(tuner, workload)
        out = args.out or _find_target(workload.model)
        measured = {"objective": args.objective, "clients": objective.clients}
        measured |= {name: round(getattr(result, name), 2) for name in LoadResult._fields[:4]}
        out.write_text(model_config.render(tuner.best, machine, measured))
    except (BenchmarkError, ServingError) as error:
        sys.exit(f"benchmarks.tune: {error}")
    except OSError as error:
        sys.exit(f"benchmarks.tune: {error.filename}: {error.strerror}")
    print(f"\n{_option(tuner.best)} after {time.monotonic() - started:.0f} s: {measured}")
    if not latency and result.p99_ms > args.p99_ms:
        print(
            f"no layout has a p99 within {args.p99_ms:g} ms with {args.clients} clients; this one has the lowest p99"
        )
    packs = "pack it into the archive" if workload.model.is_archive else "make archive packs it"
    print(f"wrote {out} for machines with {machine}; {packs}")


def _get_result(tuner: Tuner, workload: Workload) -> LoadResult:
    """Return the result of the best layout; raise BenchmarkError if there is none to write."""
    if tuner.result is None:
        raise BenchmarkError("with one core and one client there is only one layout")
    if not is_usable(tuner.result):
        raise BenchmarkError(
            f"no layout answered every request: {_format(tuner.result)}; the logs are in "
            f"{workload.scratch}; use fewer --clients if the model is slow"
        )
    return tuner.result


def _write_bodies(request: Path | None, workload: Workload) -> Path:
    if request is None:
        return workload.write_bodies(1)
    try:
        body = json.loads(request.read_text())
    except ValueError as error:
        raise BenchmarkError(f"{request} is not JSON: {error}") from error
    return write_bodies(workload.scratch / "request.jsonl", [body])


def _find_target(model: Model) -> Path:
    return (model.build if model.is_archive else model.path) / model_config.CONFIG


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    text = (
        "throughput: the most requests per second within --p99-ms; latency: the lowest median "
        "latency of one client (default: %(default)s)"
    )
    add("--objective", choices=["throughput", "latency"], default="throughput", help=text)
    text = "maximum p99 latency (default: %(default)s)"
    add("--p99-ms", type=positive_float, default=250, metavar="MS", help=text)
    text = "concurrent clients (default: %(default)s)"
    add("--clients", type=positive_int, default=32, help=text)
    text = "file with a request body (default: the requests of requests.json, in turn)"
    add("--request", type=Path, help=text)
    add_model_option(parser)
    add("--archive", dest="model", help=argparse.SUPPRESS)  # in version 0.1
    text = "the file to write (default: model-config.yaml in the model's folder)"
    add("--out", type=Path, help=text)
    text = "rounds per comparison (default: %(default)s)"
    add("--rounds", type=positive_int, default=3, help=text)
    add(
        "--seconds",
        type=positive_float,
        default=2,
        help="duration of a round in seconds; slow models need more (default: %(default)s)",
    )
    return parser.parse_args()


def _option(layout: Layout) -> str:
    """Return a layout in the format of serving.local --layout."""
    return f"{layout.workers}x{layout.threads},{layout.batch_size},{layout.batch_delay_ms}"


def _format(result: LoadResult) -> str:
    if not is_usable(result):
        return f"{result.failed} requests failed" if result.failed else "no answers"
    rate = round(result.requests_per_s, 0 if result.requests_per_s > 100 else 1)
    return f"{rate:g}/s p50 {result.p50_ms:.1f} p99 {result.p99_ms:.1f} ms"


if __name__ == "__main__":
    main()
