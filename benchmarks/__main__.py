"""Compare our server's throughput with the ceiling, stock TorchServe and the peers.

The ceiling is the model without a server; the peers are FastAPI, LitServe, BentoML and Mosec. All
servers run at the same time and are measured in turn (A B C, B C A, ...), so that other load on the
machine affects all of them equally. The results are the medians of the rounds, and their ratios.
"""

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable

from benchmarks import results, servers, workloads
from benchmarks.ceiling import run_ceiling
from benchmarks.errors import BenchmarkError
from benchmarks.load import LoadResult
from benchmarks.options import positive_float, positive_int
from benchmarks.results import LoadProfile, Row
from benchmarks.servers import RunningServer, ServerSpec
from benchmarks.workloads import BUILD, Workload
from contract.docker import DockerError
from project.model_folder import add_model_option
from serving import resources

PROFILES = (LoadProfile(1, 1), LoadProfile(8, 1), LoadProfile(32, 1), LoadProfile(4, 16))
WARM_UP = (PROFILES[2], PROFILES[2], PROFILES[0])
Measure = Callable[[LoadProfile, float], LoadResult]


def main() -> None:
    """Parse the options, measure, print a table and write it to build/bench."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add_model_option(parser)
    text = "without a model: SMALL, the default model, REAL, ResNet-18, or both (default: both)"
    add("--workload", choices=["SMALL", "REAL", "both"], default="both", help=text)
    add("--rounds", type=positive_int, default=3, help="rounds per server (default: %(default)s)")
    text = "minimum time of a round (default: %(default)s)"
    add("--seconds", type=positive_float, default=3, help=text)
    add("--image", help="the image of our server (default: our server without a container)")
    add("--docker", default="docker", help="the Docker client (default: %(default)s)")
    add("--only", help="compare only with these servers, separated by commas")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the servers
    try:
        rows = [row for load in _list_workloads(args) for row in _run(load(), args)]
    except (BenchmarkError, DockerError) as error:
        sys.exit(f"benchmarks: {error}")
    file = results.write_rows(rows, BUILD)
    print(f"\n{results.format_table(rows)}\n\n{file}")


def _list_workloads(args: argparse.Namespace) -> list[Callable[[], Workload]]:
    if args.model:
        return [lambda: workloads.select_workload(args.model)]
    factories = {
        "SMALL": lambda: workloads.select_workload(None, "SMALL"),
        "REAL": workloads.load_photographs,
    }
    return [load for name, load in factories.items() if args.workload in (name, "both")]


def _run(workload: Workload, args: argparse.Namespace) -> list[Row]:
    with contextlib.ExitStack() as stack:
        measures: dict[str, Measure] = {}
        ceiling = stack.enter_context(run_ceiling(workload, resources.cores()))
        measures[results.CEILING] = lambda profile, s: ceiling.measure(*profile, s)
        if args.image:
            server = stack.enter_context(servers.run_container(args.image, args.docker, workload))
            measures[results.OURS] = _measure_with(workload, server)
        for spec in _select_servers(workload, args):
            print(f"{workload.name}: starting {spec.label}", flush=True)
            server = stack.enter_context(servers.run_server(spec, workload))
            measures[spec.label] = _measure_with(workload, server)
        for measure in measures.values():
            for profile in WARM_UP:
                measure(profile, args.seconds)
        return [row for profile in PROFILES for row in _compare(workload, profile, measures, args)]


def _select_servers(workload: Workload, args: argparse.Namespace) -> list[ServerSpec]:
    """Return the servers to start, beside the container."""
    specs = [servers.STOCK, *servers.peer_specs(resources.cores())]
    if not args.image:
        specs.insert(0, servers.our_spec())
    if args.only:
        names = (results.OURS, *args.only.split(","))
        specs = [spec for spec in specs if spec.name.startswith(names)]
    if workload.has_parameters:
        for name in dict.fromkeys(spec.name for spec in specs if not spec.takes_parameters):
            print(f"{workload.name}: {name} is left out: its batches have no parameters")
        specs = [spec for spec in specs if spec.takes_parameters]
    return specs


def _measure_with(workload: Workload, server: RunningServer) -> Measure:
    return lambda profile, seconds: server.measure(
        workload.write_bodies(profile.instances), profile.clients, seconds
    )


def _compare(
    workload: Workload, profile: LoadProfile, measures: dict[str, Measure], args: argparse.Namespace
) -> list[Row]:
    names = list(measures)
    seconds = args.seconds * workload.duration_factor * (2 if profile.instances > 1 else 1)
    loads: dict[str, list[LoadResult]] = {name: [] for name in names}
    for number in range(args.rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            loads[name].append(measures[name](profile, seconds))
        print(f"{workload.name}: {profile}: round {number + 1} of {args.rounds}", flush=True)
    return results.summarize(workload.name, profile, loads)


if __name__ == "__main__":
    main()
