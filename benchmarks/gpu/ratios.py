"""The table that compares the rates of our workers with those of the bare limits and the other servers."""

import statistics

from benchmarks import results
from benchmarks.gpu.measurement import BARE_PROCESSES
from benchmarks.results import CEILING, OURS, Row

BARE_NAMES = tuple(f"{CEILING} {processes}x" for processes in BARE_PROCESSES)
PEER_NAMES = ("FastAPI", "LitServe")


def format_ratios(rows: list[Row]) -> str:
    """Return a table of the rates of our server and of the others, and of the ratios to the bare limits'."""
    lines = [
        "| predictions a second | ours | ours, twice the workers | bare limit, 1 process | 2 processes "
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
            for start in (OURS, f"{OURS} ", *BARE_NAMES, *PEER_NAMES)
        )
        ratios = [results.compare(ours, loop) if ours and loop else "not run" for loop in loops]
        cells = [*map(_format_rate, (ours, more, *loops)), *map(str, ratios)]
        cells += map(_format_rate, (fastapi, litserve))
        lines.append(f"| {workload}, {clients} clients | {' | '.join(cells)} |")
    return "\n".join(lines)


def _format_rate(row: Row | None) -> str:
    return f"{statistics.median(row.rates_per_s):.0f}" if row else "not run"
