"""Find workers x threads, batch size and batch delay for this machine and this model.

A champion is challenged: both run at once and are asked in turn, so that what else the machine
does falls on both. The first champion is the default for these cores, and a challenger must be
clearly better to take its place.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks.load import Load, WrkMissingError, median
from benchmarks.servers import Served, StartError, ours, started
from serving import artifact, model_config, resources
from serving.errors import ArchiveError
from serving.layout import Layout, choose_layout, max_workers

REQUEST = Path("build/tune/request.json")
CLEARLY = 1.03
"""By this factor better, in the median and in most turns: less is the machine's noise."""
MOST_BATCH = 256
DELAYS_MS = (2, 5, 10, 20)
MOST_THREADS = 16
SETTLE_S = 0.3


class Objective(NamedTuple):
    """What is to be best."""

    clients: int
    p99_ms: float
    latency: bool
    """The time of one answer, in place of answers a second."""

    def better(self, challenger: Load, champion: Load) -> bool:
        """Return whether one result is clearly better than another."""
        if self.latency:
            return challenger.p50_ms * CLEARLY < champion.p50_ms
        allowed = challenger.p99_ms <= self.p99_ms
        if allowed != (champion.p99_ms <= self.p99_ms):
            return allowed
        if not allowed:
            return challenger.p99_ms * CLEARLY < champion.p99_ms
        return challenger.requests_s > champion.requests_s * CLEARLY


class Champion:
    """The best layout so far, and who beats it."""

    def __init__(self, first: Layout, objective: Objective, args: argparse.Namespace) -> None:
        self.layout, self.objective, self._args = first, objective, args
        self.load: Load | None = None

    def challenge(self, layout: Layout) -> bool:
        """Put a layout beside the champion and return whether it takes its place."""
        if layout == self.layout:
            return False
        champions, challengers = self.duel(layout)
        champion, challenger = median(champions), median(challengers)
        turns = zip(challengers, champions, strict=True)
        most = sum(self.objective.better(*turn) for turn in turns) * 2 > len(champions)
        won = most and self.objective.better(challenger, champion)
        print(
            f"  {_short(layout):<10} {_told(challenger)}   beside {_short(self.layout)} "
            f"{_told(champion)}: {'better' if won else 'no better'}",
            flush=True,
        )
        self.load = challenger if won else champion
        self.layout = layout if won else self.layout
        return won

    def duel(self, layout: Layout) -> list[list[Load]]:
        """Ask the champion and another layout in turn, and return what came of each's turns."""
        with contextlib.ExitStack() as stack:
            both = [
                stack.enter_context(started(ours(_short(each)), self._args.archive, REQUEST))
                for each in (self.layout, layout)
            ]
            loads: list[list[Load]] = [[], []]
            for served in both:
                self._ask(served, 2)
            for turn in range(self._args.rounds):
                for which in (0, 1) if turn % 2 else (1, 0):
                    loads[which].append(self._ask(both[which], self._args.seconds))
        return loads

    def climb(self, layouts: Iterable[Layout]) -> bool:
        """Challenge with one after the other for as long as each is better than the one before."""
        won = False
        for layout in layouts:
            if not self.challenge(layout):
                break
            won = True
        return won

    def _ask(self, served: Served, seconds: float) -> Load:
        load = served.press(REQUEST, self.objective.clients, seconds, SETTLE_S)
        if load.failed:
            raise StartError(f"{served.url}: {load.failed} requests failed")
        return load


def spreads(cores: int, room: int) -> list[tuple[int, int]]:
    """Return the workers x threads to try, no more threads in all than there are cores."""
    threads = [1 << power for power in range(min(cores, MOST_THREADS).bit_length())]
    return sorted({(max(min(cores // each, room), 1), each) for each in threads}, reverse=True)


def find(champion: Champion, cores: int, room: int) -> None:
    """Try all that may be better: the spread first, for the rest depends on it."""
    print("workers x threads:", flush=True)
    for workers, threads in spreads(cores, room):
        champion.challenge(champion.layout._replace(workers=workers, threads=threads))
    if champion.objective.clients == 1:
        return  # one client's request is alone in its batch, and waits for nobody
    print("batch size:", flush=True)
    first = champion.layout
    smaller = [first.batch_size >> power for power in range(1, 9)]
    larger = [first.batch_size << power for power in range(1, 9)]
    if not champion.climb(first._replace(batch_size=n) for n in smaller if n):
        champion.climb(first._replace(batch_size=n) for n in larger if n <= MOST_BATCH)
    print("batch delay:", flush=True)
    first = champion.layout
    champion.climb(first._replace(batch_delay_ms=ms) for ms in DELAYS_MS)


def main() -> None:
    """Run the command line."""
    args = _arguments()
    cores, memory = resources.cores(), resources.memory_limit()
    REQUEST.parent.mkdir(parents=True, exist_ok=True)
    try:
        golden = artifact.read_golden_request(args.archive)
        REQUEST.write_bytes(args.request.read_bytes() if args.request else golden)
        first = choose_layout(cores, memory, artifact.read_inference_ms(args.archive))
        latency = args.objective == "latency"
        objective = Objective(1 if latency else args.clients, args.p99_ms, latency)
        champion = Champion(first, objective, args)
        print(f"{cores} cores; to begin with {first}", flush=True)
        began = time.monotonic()
        find(champion, cores, max_workers(cores, memory))
    except (WrkMissingError, StartError, ArchiveError, OSError) as error:
        sys.exit(f"benchmarks.tune: {error}")
    if champion.load is None:
        sys.exit("benchmarks.tune: one core leaves nothing to choose for one client")
    measured = {"objective": args.objective, "clients": objective.clients}
    measured |= {name: round(getattr(champion.load, name), 2) for name in Load._fields[:4]}
    args.out.write_text(model_config.render(champion.layout, cores, measured))
    print(f"\n{_short(champion.layout)} after {time.monotonic() - began:.0f} s: {measured}")
    if not latency and champion.load.p99_ms > args.p99_ms:
        print(
            f"none kept a p99 of {args.p99_ms:g} ms with {args.clients} clients; this is the lowest"
        )
    print(f"{args.out}: make archive packs it; it is followed where there are {cores} cores")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=__doc__)
    add = parser.add_argument
    best = "most requests a second within --p99-ms, or quickest answer to one client (%(default)s)"
    add("--objective", choices=["throughput", "latency"], default="throughput", help=best)
    add("--p99-ms", type=float, default=250, help="(%(default)s)")
    add("--clients", type=int, default=32, help="at once (%(default)s)")
    add("--request", type=Path, help="file of a body to ask with (the golden one)")
    add("--archive", type=Path, default="build/model-store/digits.mar")
    add("--out", type=Path, default=Path(model_config.CONFIG), help="(%(default)s)")
    add("--rounds", type=int, default=3, help="turns of each (%(default)s)")
    add("--seconds", type=float, default=2, help="of a turn (%(default)s)")
    return parser.parse_args()


def _short(layout: Layout) -> str:
    """Write it as serving.local --layout reads it."""
    return f"{layout.workers}x{layout.threads},{layout.batch_size},{layout.batch_delay_ms}"


def _told(load: Load) -> str:
    return f"{load.requests_s:.0f}/s p50 {load.p50_ms:.1f} p99 {load.p99_ms:.1f} ms"


if __name__ == "__main__":
    main()
