"""Measure our workers, the bare limits and the other servers of a workload, under the load of several clients."""

import argparse
import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from benchmarks import answers, results
from benchmarks.errors import AnswerError, BenchmarkError
from benchmarks.gpu.bare_loop import run_bare_loop
from benchmarks.gpu.load import Address, measure, send
from benchmarks.gpu.workers import run_workers
from benchmarks.gpu.workloads import GpuWorkload
from benchmarks.load import LoadResult, warm_up
from benchmarks.results import OURS, LoadProfile, Row
from benchmarks.servers import PEERS, RunningServer, ServerSpec, run_server
from serving import resources
from serving.gpu import Gpu
from serving.layout import WORKERS_PER_GPU, Layout, choose_gpu_layout, read_machine

BARE_PROCESSES = (1, 2)
CHOICES = re.compile(r"backend|of a pass|a pass has|loaded again")
"""What the workers log about what they choose on the device."""
Measure = Callable[[int, float], LoadResult]
"""Measures a server with a number of clients for some seconds."""


def measure_workload(
    workload: GpuWorkload,
    gpus: Sequence[Gpu],
    args: argparse.Namespace,
    report_error: Callable[[str], None],
) -> Iterator[list[Row]]:
    """Yield the rows of each number of clients; report the reason if another server is left out."""
    layout = args.layout or _choose_layout(gpus)
    with contextlib.ExitStack() as stack:
        loops = [stack.enter_context(run_bare_loop(workload, count)) for count in BARE_PROCESSES]
        bodies = workload.write_bodies(1)
        lines = bodies.read_text().splitlines()[: answers.MAX_BODIES]
        expected = loops[0].predict(lines)
        measures: dict[str, Measure] = {loop.label: loop.measure for loop in loops}

        def add(name: str, address: Address, server: RunningServer) -> None:
            server.resume()
            try:
                check_answers(name, address, lines, expected)
            finally:
                server.pause()

            def run(clients: int, seconds: float) -> LoadResult:
                server.resume()
                result = measure(address, bodies, clients, seconds)
                server.pause()
                return result

            measures[name] = run

        for name, own in list_layouts(layout).items():
            print(f"{workload.name}: starting {name}: {own}", flush=True)
            log = workload.scratch / f"{own.workers}x{own.threads}.log"
            address, group = stack.enter_context(run_workers(workload.folder, own, log, gpus))
            lines_of_log = dict.fromkeys(log.read_text(errors="replace").splitlines())
            print(*filter(CHOICES.search, lines_of_log), sep="\n", flush=True)
            add(name, address, RunningServer("", group))
        for spec in _list_peers(args.servers):
            print(f"{workload.name}: starting {spec.label}", flush=True)
            try:
                server = stack.enter_context(run_server(spec, workload, copies=spec.workers))
                add(spec.label, _find_address(server.url), server)
            except BenchmarkError as error:
                report_error(f"{workload.name}: {spec.label}: {error}")
        yield from _measure_in_turn(workload.name, measures, args)


def _choose_layout(gpus: Sequence[Gpu]) -> Layout:
    """Return the container's layout; on the CPU one of as many workers."""
    if gpus:
        return choose_gpu_layout(read_machine(gpus))
    cores = resources.cores()
    workers = min(WORKERS_PER_GPU, cores)
    return Layout(workers, cores // workers, source="as on a GPU")


def _list_peers(names: list[str]) -> list[ServerSpec]:
    """Return the other servers, each with a few processes and with many: a process has its own copy of the model."""
    cores = resources.cores()
    processes = dict.fromkeys((min(2, cores), min(8, cores)))
    return [
        spec._replace(
            command=spec.command.replace("python", "{python}", 1),  # that of this environment
            workers=count,
            threads=max(cores // count, 1),
        )
        for spec in PEERS
        if spec.name in names
        for count in processes
    ]


def list_layouts(layout: Layout) -> dict[str, Layout]:
    """Return the layouts of our server that are measured: the given one, and one with twice the workers."""
    workers = 2 * layout.workers
    threads = max(resources.cores() // workers, 1)
    source = "twice the workers"
    more = layout._replace(workers=workers, threads=threads, source=source)
    return {OURS: layout, f"{OURS} {workers}x{threads}": more}


def _find_address(url: str) -> Address:
    parts = urlsplit(url)
    return Address(str(parts.port), parts.path)


def check_answers(
    name: str, address: Address, bodies: list[str], expected: list[list[Any]]
) -> None:
    """Raise AnswerError unless a server predicts as the bare limit does."""
    found = []
    for body in bodies:
        try:
            status, content = send(address, body.encode())
        except (OSError, EOFError) as error:
            raise AnswerError(f"{name}: no answer: {error}") from error
        if status != HTTPStatus.OK:
            raise AnswerError(f"{name}: status {status}: {content[:200]!r}")
        found.append(json.loads(content)["predictions"])
    if difference := answers.find_error(found, expected):
        raise AnswerError(f"{name}: {difference}")


def _measure_in_turn(
    workload: str, measures: dict[str, Measure], args: argparse.Namespace
) -> Iterator[list[Row]]:
    """Measure each server once; then ours, and the best layout of each other one, in rounds; yield their rows."""
    for clients in args.clients:
        print(f"{workload}, {clients} clients", flush=True)
        trials, seconds = {}, args.seconds
        for name, run in measures.items():
            trials[name], needed_s = warm_up(partial(run, clients), clients, args.seconds)
            seconds = max(seconds, needed_s)
        compared = select_compared(trials)
        rounds: dict[str, list[LoadResult]] = {name: [] for name in compared}
        for number in range(args.rounds):
            first = number % len(compared)
            for name in compared[first:] + compared[:first]:
                rounds[name].append(measures[name](clients, seconds))
        profile = LoadProfile(clients, 1)
        yield [
            results.build_row(
                *(workload, name, profile, rounds.get(name, [trial])), is_compared=name in compared
            )
            for name, trial in trials.items()
        ]


def select_compared(trials: dict[str, LoadResult]) -> list[str]:
    """Return both layouts of our server, both bare limits, and the fastest layout of each other server."""
    best: dict[str, str] = {}
    for name in sorted(trials, key=lambda each: trials[each].answered_per_s):
        is_peer = results.is_peer(name)
        best[name.rpartition(" ")[0] if is_peer else name] = name
    return list(best.values())
