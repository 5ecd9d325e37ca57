"""Compare our server's throughput with the model without a server, stock TorchServe and other servers.

All servers of a workload run at the same time. Their answers are compared with those of the model; each is measured
once under each load; then the best peers, our server and the model are measured in turn (A B C, B C A, ...), so
that other load on the machine affects all of them equally. The results are the medians of these rounds.
"""

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Callable
from functools import partial

from benchmarks import answers, results, servers
from benchmarks.ceiling import run_ceiling
from benchmarks.errors import BenchmarkError
from benchmarks.load import LoadResult
from benchmarks.options import positive_float, positive_int
from benchmarks.results import PROFILES, LoadProfile, Row
from benchmarks.servers import RunningServer, ServerSpec
from benchmarks.workloads import BUILD, WORKLOADS, Workload, select_workload
from contract.docker import DockerError
from project.model_folder import add_model_option
from serving import resources

WARM_UP = PROFILES[2]
TRIAL_S, START_S, PAUSE_S = 1, 5, 0.4
"""The time of a trial, and estimates of a server's start and of the pauses around a measurement."""
MAX_PEERS = 2
MIN_OF_BEST = 0.8
"""Peers whose trial has less than this part of the best peer's rate are not compared."""
QUICK_PEERS = "FastAPI,Mosec"
PATHS = {"direct": results.OURS, "torchserve": f"{results.OURS} (torchserve)"}
"""The names of the image's two request paths in the results."""
Measure = Callable[[LoadProfile, float], LoadResult]
Rounds = dict[LoadProfile, dict[str, list[LoadResult]]]
"""The rounds of each server under each load."""


def main() -> None:
    """Parse the options, measure, print the tables and write them to build/bench."""
    args = _parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the servers
    try:
        rows = _measure_workloads(args)
    except (BenchmarkError, DockerError) as error:
        sys.exit(f"benchmarks: {error}")
    file = results.write_rows(rows, BUILD)
    print(f"\n{file.with_suffix('.md').read_text()}\n{file}")
    if failures := results.find_failures(rows):
        sys.exit("benchmarks: these figures do not count:\n" + "\n".join(failures))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_model_option(parser)
    names = ", ".join(WORKLOADS)
    text = f"workloads, separated by commas (default: {names}; with a model: that model)"
    add("--only", metavar="WORKLOAD", help=text)
    text = f"peers, separated by commas, to compare with (default: {', '.join(servers.NAMES)})"
    add("--servers", metavar="NAMES", help=text)
    text = f"two rounds of a second, and without --servers only {QUICK_PEERS}"
    add("--quick", action="store_true", help=text)
    add("--rounds", type=positive_int, help="rounds per server and load (default: 5)")
    text = "minimum time of a round; slow models take more (default: 2)"
    add("--seconds", type=positive_float, help=text)
    add("--image", help="the image of our server (default: our server without a container)")
    text = (
        "the way of a request in the container: direct, torchserve or both (default: %(default)s)"
    )
    add("--request-path", choices=[*PATHS, "both"], default="direct", help=text)
    add("--docker", default="docker", help="the Docker client (default: %(default)s)")
    args = parser.parse_args()
    args.rounds = args.rounds or (2 if args.quick else 5)
    args.seconds = args.seconds or (1 if args.quick else 2)
    args.servers = (args.servers or (QUICK_PEERS if args.quick else ",".join(servers.NAMES))).split(
        ","
    )
    args.only = args.only.split(",") if args.only else []
    if args.only and args.model:
        parser.error("--only selects workloads without a model, and MODEL or --model is set")
    for option, values, known in (
        ("--servers", args.servers, servers.NAMES),
        ("--only", args.only, WORKLOADS),
    ):
        if unknown := set(values) - set(known):
            parser.error(f"{option}: unknown: {', '.join(unknown)}; expected {', '.join(known)}")
    return args


def _measure_workloads(args: argparse.Namespace) -> list[Row]:
    """Return the rows of all workloads; their archives are built first."""
    load = {args.model: partial(select_workload, args.model)} if args.model else WORKLOADS
    workloads = [load[name]() for name in (args.only or load)]
    clock = Clock([_estimate_s(workload, args) for workload in workloads])
    rows = []
    for workload in workloads:
        clock.start_part()
        rows += _measure_workload(workload, args, clock)
    return rows


class Clock:
    """Prints lines with the time left, from an estimate of each part."""

    def __init__(self, parts_s: list[float]) -> None:
        self._parts_s = parts_s
        self._started = self._part_ends = time.monotonic()

    def start_part(self) -> None:
        """Start the next part."""
        self._part_ends = time.monotonic() + self._parts_s.pop(0)

    def print(self, text: str) -> None:
        """Print a line with the time since the start and the time left."""
        now = time.monotonic()
        left_s = max(self._part_ends - now, 0) + sum(self._parts_s)
        elapsed_min = (now - self._started) / 60
        print(f"{elapsed_min:4.1f} min, {left_s / 60:.0f} min left: {text}", flush=True)


def _measure_workload(workload: Workload, args: argparse.Namespace, clock: Clock) -> list[Row]:
    with contextlib.ExitStack() as stack:
        ceiling = stack.enter_context(run_ceiling(workload, resources.cores()))
        started = _start_servers(workload, args, stack, clock)
        clock.print(f"{workload.name}: comparing the answers")
        answers.check(workload, ceiling, started)
        measures: dict[str, Measure] = {
            results.CEILING: lambda profile, seconds: ceiling.measure(*profile, seconds)
        }
        measures |= {name: _measure_with(workload, server) for name, server in started.items()}
        for measure in measures.values():
            measure(WARM_UP, TRIAL_S)
        trials: Rounds = {}
        for profile in PROFILES:
            clock.print(f"{workload.name}, {profile}: trial")
            seconds = workload.round_s(profile, TRIAL_S)
            trials[profile] = {name: [run(profile, seconds)] for name, run in measures.items()}
        compared = {profile: select_compared(trials[profile]) for profile in PROFILES}
        rounds: Rounds = {profile: {name: [] for name in compared[profile]} for profile in PROFILES}
        for number in range(args.rounds):
            for profile in PROFILES:
                clock.print(f"{workload.name}, {profile}: round {number + 1} of {args.rounds}")
                seconds = workload.round_s(profile, args.seconds)
                names = compared[profile]
                first = number % len(names)
                for name in names[first:] + names[:first]:
                    rounds[profile][name].append(measures[name](profile, seconds))
    return [
        results.build_row(
            workload.name,
            name,
            profile,
            rounds[profile].get(name) or trials[profile][name],
            is_compared=name in compared[profile],
        )
        for profile in PROFILES
        for name in measures
    ]


def _start_servers(
    workload: Workload, args: argparse.Namespace, stack: contextlib.ExitStack, clock: Clock
) -> dict[str, RunningServer]:
    started = {}
    if args.image:
        for path in _request_paths(args):
            clock.print(f"{workload.name}: starting {PATHS[path]}")
            container = servers.run_container(args.image, args.docker, workload, path)
            started[PATHS[path]] = stack.enter_context(container)
    for spec in _select_servers(workload, args):
        clock.print(f"{workload.name}: starting {spec.label}")
        started[spec.label] = stack.enter_context(servers.run_server(spec, workload))
    return started


def _request_paths(args: argparse.Namespace) -> list[str]:
    return list(PATHS) if args.request_path == "both" else [args.request_path]


def _select_servers(workload: Workload, args: argparse.Namespace) -> list[ServerSpec]:
    """Return the servers to start, beside the container."""
    specs = [each for each in servers.all_specs(resources.cores()) if each.name in args.servers]
    if not args.image:
        specs.insert(0, servers.our_spec()._replace(name=PATHS["torchserve"]))
    if workload.has_parameters:
        for name in dict.fromkeys(spec.name for spec in specs if not spec.takes_parameters):
            print(f"{workload.name}: {name} is left out: its batches have no parameters")
        specs = [spec for spec in specs if spec.takes_parameters]
    return specs


def _measure_with(workload: Workload, server: RunningServer) -> Measure:
    return lambda profile, seconds: server.measure(
        workload.write_bodies(profile.instances), profile.clients, seconds
    )


def select_compared(trial: dict[str, list[LoadResult]]) -> list[str]:
    """Return the servers that are compared under one load: ours, the ceiling and the best peers."""
    rates = {
        name: result.requests_per_s
        for name, [result] in trial.items()
        if results.is_peer(name) and not result.failed
    }
    best = sorted(rates, key=lambda name: -rates[name])[:MAX_PEERS]
    kept = [name for name in best if rates[name] >= MIN_OF_BEST * rates[best[0]]]
    return [
        name for name in trial if name in kept or name.startswith((results.OURS, results.CEILING))
    ]


def _estimate_s(workload: Workload, args: argparse.Namespace) -> float:
    """Return about how long a workload is measured."""
    count = len(_select_servers(workload, args)) + 2
    compared = MAX_PEERS + 1 + len(_request_paths(args))
    trials = [workload.round_s(profile, TRIAL_S) + PAUSE_S for profile in (WARM_UP, *PROFILES)]
    rounds = [workload.round_s(profile, args.seconds) + PAUSE_S for profile in PROFILES]
    trials_s = count * (START_S + sum(trials))
    return trials_s + int(args.rounds) * compared * sum(rounds)


if __name__ == "__main__":
    main()
