"""Compare ours with the bare limit, TorchServe as its samples set it up, and the peers.

All run at once and are loaded in turn (A B C, B C A, ...), so that what else the machine does
affects all of them alike. The results are medians of the rounds, and their ratios.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable

from benchmarks import results, servers, workloads
from benchmarks.ceiling import limit
from benchmarks.load import Load, WrkMissingError
from benchmarks.results import Cell, Row
from benchmarks.servers import Served
from benchmarks.workloads import BUILD, Workload
from contract.docker import DockerError
from serving import resources

CELLS = (Cell(1, 1), Cell(8, 1), Cell(32, 1), Cell(4, 16))
Ask = Callable[[Cell, float], Load]


def main() -> None:
    """Parse the command line, measure, print a table and write it to build/bench."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--workload", choices=["SMALL", "REAL", "both"], default="both")
    add("--rounds", type=int, default=3, help="turns of each (%(default)s)")
    add("--seconds", type=float, default=3, help="of a turn, at least (%(default)s)")
    add("--image", help="ours: this image (default: ours without a container)")
    add("--docker", default="docker", help="(%(default)s)")
    add("--only", help="names of contestants, separated by commas (all)")
    args = parser.parse_args()
    makers = {"SMALL": workloads.small, "REAL": workloads.real}
    chosen = [name for name in makers if args.workload in (name, "both")]
    BUILD.mkdir(parents=True, exist_ok=True)
    try:
        rows = [row for name in chosen for row in _run(makers[name](), args)]
    except (WrkMissingError, servers.StartError, DockerError) as error:
        sys.exit(f"benchmarks: {error}")
    file = results.write(rows, BUILD)
    print(f"\n{results.table(rows)}\n\n{file}")


def _run(workload: Workload, args: argparse.Namespace) -> list[Row]:
    cores = resources.cores()
    with contextlib.ExitStack() as stack:
        asked: dict[str, Ask] = {}
        bare = stack.enter_context(limit(workload, cores))
        asked[results.LIMIT] = lambda cell, s: bare.press(cell.clients, cell.instances, s)
        others = [servers.STOCK, *servers.peers(cores)]
        if args.image:
            served = stack.enter_context(servers.container(args.image, args.docker, workload))
            asked[results.OURS] = _asker(workload, served)
        else:
            others.insert(0, servers.ours())
        if args.only:
            chosen = (results.OURS, *args.only.split(","))
            others = [each for each in others if each.name.startswith(chosen)]
        for each in others:
            print(f"{workload.name}: starting {each.label}", flush=True)
            variables = servers.environment(each, workload)
            starting = servers.started(each, workload.archive, workload.body(1), variables)
            asked[each.label] = _asker(workload, stack.enter_context(starting))
        for ask in asked.values():
            for cell in (CELLS[2], CELLS[2], CELLS[0]):  # warms up
                ask(cell, args.seconds)
        return [row for cell in CELLS for row in _cell(workload, cell, asked, args)]


def _asker(workload: Workload, served: Served) -> Ask:
    return lambda cell, s: served.press(workload.body(cell.instances), cell.clients, s)


def _cell(
    workload: Workload, cell: Cell, asked: dict[str, Ask], args: argparse.Namespace
) -> list[Row]:
    names = list(asked)
    seconds = args.seconds * workload.longer * (2 if cell.instances > 1 else 1)
    loads: dict[str, list[Load]] = {name: [] for name in names}
    for turn in range(args.rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            loads[name].append(asked[name](cell, seconds))
        print(f"{workload.name}: {cell}: round {turn + 1} of {args.rounds}", flush=True)
    return results.rows(workload.name, cell, loads)


if __name__ == "__main__":
    main()
