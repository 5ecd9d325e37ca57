"""Compare our server's throughput with the ceiling, stock TorchServe and the peers.

The ceiling is the model without a server; the peers are FastAPI, LitServe, BentoML and Mosec. All
servers run at the same time and are measured in turn (A B C, B C A, ...), so that other load on the
machine affects all of them equally. The results are the medians of the rounds, and their ratios.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable

from benchmarks import results, servers, workloads
from benchmarks.ceiling import run_ceiling
from benchmarks.errors import BenchmarkError
from benchmarks.load import LoadResult
from benchmarks.options import positive_float, positive_int
from benchmarks.results import LoadProfile, Row
from benchmarks.servers import RunningServer
from benchmarks.workloads import BUILD, Workload
from contract.docker import DockerError
from serving import resources

PROFILES = (LoadProfile(1, 1), LoadProfile(8, 1), LoadProfile(32, 1), LoadProfile(4, 16))
WARM_UP = (PROFILES[2], PROFILES[2], PROFILES[0])
Measure = Callable[[LoadProfile, float], LoadResult]


def main() -> None:
    """Parse the options, measure, print a table and write it to build/bench."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    text = "the models (default: both)"
    add("--workload", choices=["SMALL", "REAL", "both"], default="both", help=text)
    add("--rounds", type=positive_int, default=3, help="rounds per server (default: %(default)s)")
    text = "minimum time of a round (default: %(default)s)"
    add("--seconds", type=positive_float, default=3, help=text)
    add("--image", help="the image of our server (default: our server without a container)")
    add("--docker", default="docker", help="the Docker client (default: %(default)s)")
    add("--only", help="compare only with these servers, separated by commas")
    args = parser.parse_args()
    factories = {
        "SMALL": workloads.load_digits_workload,
        "REAL": workloads.load_photographs_workload,
    }
    names = [name for name in factories if args.workload in (name, "both")]
    BUILD.mkdir(parents=True, exist_ok=True)
    try:
        rows = [row for name in names for row in _run(factories[name](), args)]
    except (BenchmarkError, DockerError) as error:
        sys.exit(f"benchmarks: {error}")
    file = results.write_rows(rows, BUILD)
    print(f"\n{results.format_table(rows)}\n\n{file}")


def _run(workload: Workload, args: argparse.Namespace) -> list[Row]:
    cores = resources.cores()
    with contextlib.ExitStack() as stack:
        measures: dict[str, Measure] = {}
        ceiling = stack.enter_context(run_ceiling(workload, cores))
        measures[results.CEILING] = lambda profile, s: ceiling.measure(*profile, s)
        specs = [servers.STOCK, *servers.peer_specs(cores)]
        if args.image:
            server = stack.enter_context(servers.run_container(args.image, args.docker, workload))
            measures[results.OURS] = _measure_with(workload, server)
        else:
            specs.insert(0, servers.our_spec())
        if args.only:
            names = (results.OURS, *args.only.split(","))
            specs = [spec for spec in specs if spec.name.startswith(names)]
        for spec in specs:
            print(f"{workload.name}: starting {spec.label}", flush=True)
            environment = servers.build_environment(spec, workload)
            body = workload.write_body(1)
            context = servers.run_server(spec, workload.archive, body, environment)
            measures[spec.label] = _measure_with(workload, stack.enter_context(context))
        for measure in measures.values():
            for profile in WARM_UP:
                measure(profile, args.seconds)
        return [row for profile in PROFILES for row in _compare(workload, profile, measures, args)]


def _measure_with(workload: Workload, server: RunningServer) -> Measure:
    return lambda profile, seconds: server.measure(
        workload.write_body(profile.instances), profile.clients, seconds
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
