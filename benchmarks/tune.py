"""Find the fastest worker layout for this machine and model, and write it to model-config.yaml in the model's folder.

It tries workers x threads, then batch sizes, then batch delays. Two layouts run at the same time and are
measured in turn, so that other load on the machine affects both. The search starts with the default
layout for this number of cores; a candidate replaces the best layout only if it is clearly better.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.errors import BenchmarkError, StartError
from benchmarks.load import LoadResult, median
from benchmarks.options import positive_float, positive_int
from benchmarks.servers import RunningServer, our_spec, run_server
from project.model_folder import ModelFolderError, add_model_option, find_model
from serving import artifact, model_config, resources
from serving.errors import ArchiveError
from serving.layout import Layout, choose_layout, max_workers

REQUEST = Path("build/tune/request.json")
MIN_IMPROVEMENT = 1.03
"""A candidate must be better by this factor, in the median and in most rounds: less is noise."""
MAX_BATCH_SIZE = 256
BATCH_DELAYS_MS = (2, 5, 10, 20)
MAX_THREADS = 16
SETTLE_S = 0.3
WARM_UP_S = 2

Measure = Callable[[Layout, Layout], list[list[LoadResult]]]
"""Measures two layouts; returns the results of each layout's rounds."""


class Objective(NamedTuple):
    """The criterion by which layouts are compared."""

    clients: int
    max_p99_ms: float
    latency: bool
    """Minimise the median latency, instead of maximising throughput within max_p99_ms."""

    def is_better(self, candidate: LoadResult, best: LoadResult) -> bool:
        """Return whether a candidate's result is clearly better."""
        if self.latency:
            return candidate.p50_ms * MIN_IMPROVEMENT < best.p50_ms
        allowed = candidate.p99_ms <= self.max_p99_ms
        if allowed != (best.p99_ms <= self.max_p99_ms):
            return allowed
        if not allowed:
            return candidate.p99_ms * MIN_IMPROVEMENT < best.p99_ms
        return candidate.requests_per_s > best.requests_per_s * MIN_IMPROVEMENT


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
    *layouts: Layout, archive: Path, clients: int, rounds: int, seconds: float
) -> list[list[LoadResult]]:
    """Run a server for each layout at the same time; return the results of its rounds."""

    def run_load(server: RunningServer, seconds: float) -> LoadResult:
        result = server.measure(REQUEST, clients, seconds, SETTLE_S)
        if result.failed:
            raise StartError(f"{server.url}: {result.failed} requests failed")
        return result

    results: list[list[LoadResult]] = [[] for _ in layouts]
    with contextlib.ExitStack() as stack:
        specs = [our_spec(_option(layout)) for layout in layouts]
        servers = [stack.enter_context(run_server(spec, archive, REQUEST)) for spec in specs]
        for server in servers:
            run_load(server, WARM_UP_S)
        for number in range(rounds):
            order = range(len(servers)) if number % 2 else reversed(range(len(servers)))
            for index in order:
                results[index].append(run_load(servers[index], seconds))
    return results


def worker_thread_pairs(cores: int, max_workers: int) -> list[tuple[int, int]]:
    """Return the (workers, threads) to try; their product is at most the number of cores."""
    threads = [1 << power for power in range(min(cores, MAX_THREADS).bit_length())]
    pairs = {(max(min(cores // count, max_workers), 1), count) for count in threads}
    return sorted(pairs, reverse=True)


def search(tuner: Tuner, cores: int, max_workers: int) -> None:
    """Compare all candidates: first workers x threads, because the rest depends on them."""
    print("workers x threads:", flush=True)
    for workers, threads in worker_thread_pairs(cores, max_workers):
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
    tuner.climb(initial._replace(batch_delay_ms=ms) for ms in BATCH_DELAYS_MS)


def main() -> None:
    """Parse the options, search for the best layout and write it to a file."""
    args = _parse_arguments()
    cores, memory = resources.cores(), resources.memory_limit()
    REQUEST.parent.mkdir(parents=True, exist_ok=True)
    try:
        golden = artifact.read_golden_request(args.archive)
        REQUEST.write_bytes(args.request.read_bytes() if args.request else golden)
        initial = choose_layout(cores, memory, artifact.read_inference_ms(args.archive))
        latency = args.objective == "latency"
        objective = Objective(1 if latency else args.clients, args.p99_ms, latency)
        measure = partial(
            measure_side_by_side,
            archive=args.archive,
            clients=objective.clients,
            rounds=args.rounds,
            seconds=args.seconds,
        )
        tuner = Tuner(initial, objective, measure)
        print(f"{cores} cores; initial layout: {initial}", flush=True)
        started = time.monotonic()
        search(tuner, cores, max_workers(cores, memory))
    except (BenchmarkError, ArchiveError) as error:
        sys.exit(f"benchmarks.tune: {error}")
    except OSError as error:
        sys.exit(f"benchmarks.tune: {error.filename}: {error.strerror}")
    if tuner.result is None:
        sys.exit("benchmarks.tune: with one core and one client there is only one layout")
    measured = {"objective": args.objective, "clients": objective.clients}
    measured |= {name: round(getattr(tuner.result, name), 2) for name in LoadResult._fields[:4]}
    args.out.write_text(model_config.render(tuner.best, cores, measured))
    print(f"\n{_option(tuner.best)} after {time.monotonic() - started:.0f} s: {measured}")
    if not latency and tuner.result.p99_ms > args.p99_ms:
        print(
            f"no layout has a p99 within {args.p99_ms:g} ms with {args.clients} clients; this one has the lowest p99"
        )
    print(f"wrote {args.out} for machines with {cores} cores; make archive packs it")


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
    add("--request", type=Path, help="file with a request body (default: the golden request)")
    add_model_option(parser)
    add("--archive", type=Path, help="the .mar (default: the archive of the model)")
    text = "the file to write (default: model-config.yaml in the model's folder)"
    add("--out", type=Path, help=text)
    text = "rounds per comparison (default: %(default)s)"
    add("--rounds", type=positive_int, default=3, help=text)
    add(
        "--seconds",
        type=positive_float,
        default=2,
        help="duration of a round in seconds (default: %(default)s)",
    )
    args = parser.parse_args()
    try:
        model = find_model(args.model)
    except ModelFolderError as error:
        parser.error(str(error))
    args.archive = args.archive or model.archive
    args.out = (
        args.out or (model.path if model.path.is_dir() else model.build) / model_config.CONFIG
    )
    return args


def _option(layout: Layout) -> str:
    """Return a layout in the format of serving.local --layout."""
    return f"{layout.workers}x{layout.threads},{layout.batch_size},{layout.batch_delay_ms}"


def _format(result: LoadResult) -> str:
    return f"{result.requests_per_s:.0f}/s p50 {result.p50_ms:.1f} p99 {result.p99_ms:.1f} ms"


if __name__ == "__main__":
    main()
