"""Put ours beside the bare limit, TorchServe as its samples have it, and the peers.

All run at once and are asked in turn (A B C, B C A, ...), so that what else the machine does falls
on all of them alike. Medians of the rounds are quoted, and their ratios.
"""

import argparse
import contextlib
import datetime
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import contestants, results, workloads
from benchmarks.contestants import Served
from benchmarks.limit import Limit
from benchmarks.load import Load, NoWrk, press
from benchmarks.results import Cell, Row
from benchmarks.workloads import BUILD, Workload
from serving import machine

CELLS = (Cell(1, 1), Cell(8, 1), Cell(32, 1), Cell(4, 16))
"""Clients, and the instances in each of their requests."""
SETTLE_S = 0.7
"""Before and after a turn: what is under way when the clients go must not be in the next one's."""
Ask = Callable[[Cell, float], Load]


def main() -> None:
    """Run the command line."""
    args = _arguments()
    chosen = [workload for workload in ("SMALL", "REAL") if args.workload in (workload, "both")]
    rows: list[Row] = []
    try:
        for name in chosen:
            workload = {"SMALL": workloads.small, "REAL": workloads.real}[name]()
            rows += _run(workload, args)
    except (NoWrk, contestants.DidNotStart) as error:
        sys.exit(f"benchmarks: {error}")
    began = datetime.datetime.now(datetime.UTC)
    file = results.write(rows, began, BUILD)
    print(f"\n{results.table(rows)}\n\n{file}", flush=True)
    if contestants.PEERS.exists():
        plots = [str(contestants.PEERS), "-m", "benchmarks.plots", str(file)]
        subprocess.run(plots, check=True, timeout=120)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--workload", choices=["SMALL", "REAL", "both"], default="both")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=3, help="of a turn (%(default)s; more for REAL)"
    )
    parser.add_argument(
        "--image", help="ours: this image; without it, the same without a container"
    )
    parser.add_argument("--docker", default="docker", help="(%(default)s)")
    parser.add_argument("--only", help="names of contestants, separated by commas (all)")
    return parser.parse_args()


def _run(workload: Workload, args: argparse.Namespace) -> list[Row]:
    cores = machine.cores()
    with contextlib.ExitStack() as stack:
        asked: dict[str, Ask] = {}
        limit = stack.enter_context(Limit(workload, cores))
        asked["bare limit"] = lambda cell, s: limit.press(cell.clients, cell.instances, s)
        if args.image:
            served = stack.enter_context(contestants.container(args.image, args.docker, workload))
            asked["ours"] = _asker(workload, served)
        others = [contestants.stock(cores), *contestants.peers(cores)]
        if not args.image:
            others.insert(0, contestants.local(cores))
        for contestant in others:
            if args.only and not any(contestant.name.startswith(n) for n in args.only.split(",")):
                continue
            _say(f"{workload.name}: starting {contestant.label}")
            served = stack.enter_context(contestants.serving(contestant, workload))
            label = "ours" if contestant.name.startswith("ours") else contestant.label
            asked[label] = _asker(workload, served)
        for ask in asked.values():
            for cell in (CELLS[2], CELLS[2], CELLS[0]):
                ask(cell, 3)
        return [row for cell in CELLS for row in _cell(workload, cell, asked, args)]


def _asker(workload: Workload, served: Served) -> Ask:
    def ask(cell: Cell, seconds: float) -> Load:
        served.wake()
        time.sleep(SETTLE_S)
        load = press(served.url, workload.body(cell.instances), cell.clients, seconds)
        time.sleep(SETTLE_S)
        served.sleep()
        return load

    return ask


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
        _say(
            f"{workload.name}: {cell.clients} clients x {cell.instances}: {turn + 1}/{args.rounds}"
        )
    rows = results.rows(workload.name, cell, loads)
    best = max(statistics.median(load.requests_s for load in each) for each in loads.values())
    _say(f"{workload.name}: {cell.clients} clients x {cell.instances}: at most {best:.0f} a second")
    return rows


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    Path(BUILD).mkdir(parents=True, exist_ok=True)
    main()
