"""Compare our workers on a GPU with the bare loop and with other servers on the same GPU, in one run.

Our workers get their requests over the socket that nginx connects to: neither Docker nor Java, nginx or wrk is needed,
only Python with torch and Pillow, the Python files of torchserve, and the other servers (fastapi, uvicorn, litserve).
All servers of a workload run at the same time, and are measured in turn; the results are medians of the rounds. They
are written after each number of clients. A server that does not start, or predicts otherwise, is left out.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import re
import signal
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from benchmarks import answers, results
from benchmarks.errors import AnswerError, BenchmarkError
from benchmarks.gpu.bare_loop import run_bare_loop
from benchmarks.gpu.load import Address, measure, send
from benchmarks.gpu.workers import run_workers
from benchmarks.gpu.workloads import MODELS, GpuWorkload
from benchmarks.load import LoadResult, warm_up
from benchmarks.options import positive_float, positive_int
from benchmarks.results import CEILING, OURS, LoadProfile, Row
from benchmarks.servers import PEERS, RunningServer, ServerSpec, run_server
from benchmarks.workloads import BUILD
from serving import resources
from serving.errors import ServingError
from serving.gpu import Gpu, find_gpus, find_torch_cuda
from serving.layout import (
    WORKERS_PER_GPU,
    Layout,
    choose_gpu_layout,
    read_machine,
)
from serving.local import parse_layout

BARE_PROCESSES = (1, 2)
BARE_NAMES = tuple(f"{CEILING} {processes}x" for processes in BARE_PROCESSES)
PACKAGES = {
    "": ("ts", "psutil", "yaml"),
    "FastAPI": ("fastapi", "uvicorn", "uvloop", "httptools", "orjson"),
    "LitServe": ("litserve", "orjson"),
}
"""What our workers, and the other servers, import beside what this program does."""
COMPARED = tuple(filter(None, PACKAGES))
CHOICES = re.compile(r"backend|of a pass|a pass has|loaded again")
"""What the workers log about what they choose on the device."""
PATH_VARIABLE = "PYTHONPATH"
Measure = Callable[[int, float], LoadResult]
"""Measures a server with a number of clients for some seconds."""


def main() -> None:
    """Parse the options, measure, print the tables and write them to build/bench; fail if something was left out."""
    args = _parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the servers
    # The processes that are started run in other folders.
    packages = filter(None, os.environ.get(PATH_VARIABLE, "").split(os.pathsep))
    os.environ[PATH_VARIABLE] = os.pathsep.join(map(os.path.abspath, packages))
    try:
        gpus = _find_gpu() if args.device == "cuda" else []
        check_packages(args.servers)
    except (BenchmarkError, ServingError) as error:
        sys.exit(f"benchmarks.gpu: {error}")
    device = _describe_device(gpus)
    rows: list[Row] = []
    errors: list[str] = []
    file = None
    for name in args.only:
        try:
            for measured in _measure_workload(GpuWorkload(name, args.device), gpus, args, errors):
                rows += measured
                file = _write(rows, device, file)
                print(results.format_rows(measured), flush=True)
        except (BenchmarkError, ServingError) as error:
            _report(f"{name}: {error}", errors)
    if file is not None:
        print(f"\n{file.with_suffix('.md').read_text()}\n{file}")
    if failures := errors + results.find_failures(rows):
        sys.exit("benchmarks.gpu: missing, or does not count:\n" + "\n".join(failures))


def _report(error: str, errors: list[str]) -> None:
    print(error, flush=True)
    errors.append(error)


def _write(rows: list[Row], device: str, old: Path | None) -> Path:
    """Write the results so far as JSON and as tables, in place of earlier files; return the first."""
    document = {"device": device, "rows": [row._asdict() for row in rows]}
    file = results.write_json("gpu", document, BUILD)
    text = f"{device}\n\n{format_ratios(rows)}\n\n{results.format_rows(rows)}\n"
    file.with_suffix(".md").write_text(text)
    if old not in (None, file):
        old.unlink()
        old.with_suffix(".md").unlink()
    return file


def check_packages(servers: Sequence[str]) -> None:
    """Raise BenchmarkError if a package is missing that our workers, or the other servers, import."""
    needed = dict.fromkeys(name for server in ("", *servers) for name in PACKAGES.get(server, ()))
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise BenchmarkError(
            f"{sys.executable} does not find {', '.join(missing)}: run make gpu-packages where there is a network, and "
            "set PYTHONPATH=build/bench/gpu-packages here"
        )


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    text = f"of {', '.join(MODELS)}, separated by commas (default: %(default)s)"
    add("--only", default="RESNET50,MINILM", metavar="WORKLOADS", type=_list_of(MODELS), help=text)
    add("--device", choices=["cuda", "cpu"], default="cuda", help="(default: %(default)s)")
    text = "of FastAPI and LitServe, separated by commas; none: without other servers (default: %(default)s)"
    known = (*COMPARED, "none")
    add("--servers", default=",".join(COMPARED), metavar="NAMES", type=_list_of(known), help=text)
    text = "the layout of our workers, such as 2x8,32,0 (default: that of the container)"
    add("--layout", type=parse_layout, metavar="WORKERSxTHREADS[,BATCH[,DELAY_MS]]", help=text)
    text = "numbers of clients, separated by commas (default: %(default)s)"
    add("--clients", default="1,8,32,128", type=_list_of_numbers, help=text)
    add("--rounds", type=positive_int, default=3, help="(default: %(default)s)")
    text = "time of a round (default: %(default)s)"
    add("--seconds", type=positive_float, default=2, help=text)
    return parser.parse_args()


def _list_of(known: object) -> Callable[[str], list[str]]:
    names = list(known)  # type: ignore[call-overload]

    def parse(text: str) -> list[str]:
        values = text.split(",")
        if unknown := [each for each in values if each not in names]:
            expected = ", ".join(names)
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; expected {expected}")
        return values

    return parse


def _list_of_numbers(text: str) -> list[int]:
    return [positive_int(each) for each in text.split(",")]


def _find_gpu() -> list[Gpu]:
    """Return the first GPU; raise BenchmarkError or NoGpuError."""
    torch_cuda = find_torch_cuda()
    if torch_cuda is None:
        raise BenchmarkError(
            f"torch {torch.__version__} is built for CPUs: use a torch for GPUs, or measure with --device cpu"
        )
    gpus, description = find_gpus(os.environ, torch_cuda)
    print(description, flush=True)
    return gpus[:1]


def _describe_device(gpus: Sequence[Gpu]) -> str:
    """Return the GPU, the processor, and the versions of torch and CUDA."""
    cuda = f", CUDA {torch.version.cuda}" if gpus else ""
    devices = "; ".join([*map(str, gpus), results.describe_cpu()])
    return f"{devices}; torch {torch.__version__}{cuda}"


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


def _measure_workload(
    workload: GpuWorkload, gpus: Sequence[Gpu], args: argparse.Namespace, errors: list[str]
) -> Iterator[list[Row]]:
    """Yield the rows of each number of clients; add the reason to `errors` if another server is left out."""
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
                _report(f"{workload.name}: {spec.label}: {error}", errors)
        yield from _measure_in_turn(workload.name, measures, args)


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
    """Raise AnswerError unless a server predicts as the bare loop does."""
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
    """Return both layouts of our server, both bare loops, and the fastest layout of each other server."""
    best: dict[str, str] = {}
    for name in sorted(trials, key=lambda each: trials[each].answered_per_s):
        is_peer = results.is_peer(name)
        best[name.rpartition(" ")[0] if is_peer else name] = name
    return list(best.values())


def format_ratios(rows: list[Row]) -> str:
    """Return a table of the rates of our server and of the others, and of the ratios to the bare loops'."""
    lines = [
        "| predictions a second | ours | ours, twice the workers | bare loop, 1 process | 2 processes "
        "| ours ÷ 1 process | ours ÷ 2 processes | FastAPI | LitServe |",
        "|---" * 9 + "|",
    ]
    for workload, clients in dict.fromkeys((row.workload, row.clients) for row in rows):
        by_name = {
            row.server: row
            for row in rows
            if (row.workload, row.clients) == (workload, clients) and row.is_compared
        }
        ours, more, *loops, fastapi, litserve = (
            next((row for name, row in by_name.items() if name.startswith(start)), None)
            for start in (OURS, f"{OURS} ", *BARE_NAMES, *COMPARED)
        )
        ratios = [results.compare(ours, loop) if ours and loop else "not run" for loop in loops]
        cells = [*map(_format_rate, (ours, more, *loops)), *map(str, ratios)]
        cells += map(_format_rate, (fastapi, litserve))
        lines.append(f"| {workload}, {clients} clients | {' | '.join(cells)} |")
    return "\n".join(lines)


def _format_rate(row: Row | None) -> str:
    return f"{statistics.median(row.rates_per_s):.0f}" if row else "not run"


if __name__ == "__main__":
    main()
