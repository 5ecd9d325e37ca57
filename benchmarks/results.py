"""The results of a run of `make bench`: a table for people, a JSON file for programs."""

import datetime
import json
import os
import platform
import re
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.load import Load

LIMIT, OURS, STOCK = "bare limit", "ours", "stock TorchServe"


class Cell(NamedTuple):
    """How the servers are loaded."""

    clients: int
    instances: int
    """In each request."""

    def __str__(self) -> str:
        return f"{self.clients} x {self.instances}"


class Row(NamedTuple):
    """One contestant in one cell; README.md of this folder says what each key means."""

    workload: str
    contestant: str
    clients: int
    instances: int
    requests_s: float
    spread: tuple[float, float]
    p50_ms: float
    p99_ms: float
    failed: int
    ours_over_this: float


def rows(workload: str, cell: Cell, loads: dict[str, list[Load]]) -> list[Row]:
    """Return a row for each contestant: medians of its turns."""
    ours = statistics.median(load.requests_s for load in loads[OURS])
    found = []
    for name, each in loads.items():
        rates = [load.requests_s for load in each]
        rate = statistics.median(rates)
        found.append(
            Row(
                workload,
                name,
                *cell,
                round(rate, 2),
                (round(min(rates), 2), round(max(rates), 2)),
                round(statistics.median(load.p50_ms for load in each), 3),
                round(statistics.median(load.p99_ms for load in each), 3),
                sum(load.failed for load in each),
                round(ours / max(rate, 1e-9), 3),
            )
        )
    return found


def ratios(measured: list[Row]) -> list[dict[str, Any]]:
    """Return, for each workload and cell, ours over the limit, the stock and the best peer."""
    cells: dict[tuple[str, Cell], list[Row]] = {}
    for row in measured:
        cells.setdefault((row.workload, Cell(row.clients, row.instances)), []).append(row)
    found = []
    for (workload, cell), here in cells.items():
        peers = [r for r in here if not r.contestant.startswith((LIMIT, OURS, STOCK))]
        best = max(peers, key=lambda row: row.requests_s, default=None)
        limit = next(row for row in here if row.contestant == LIMIT)
        stock = next((row for row in here if row.contestant.startswith(STOCK)), None)
        found.append(
            {
                "workload": workload,
                **cell._asdict(),
                "best_peer": best.contestant if best else None,
                "ours_over_best_peer": best.ours_over_this if best else None,
                "ours_over_limit": limit.ours_over_this,
                "ours_over_stock": stock.ours_over_this if stock else None,
            }
        )
    return found


def table(measured: list[Row]) -> str:
    """Return the rows and the ratios as Markdown."""
    lines = [
        "| workload | clients x instances | contestant | requests/s | lowest to highest "
        "| p50 ms | p99 ms | ours / this |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in measured:
        low, high = row.spread
        failed = f", {row.failed} failed" if row.failed else ""
        lines.append(
            f"| {row.workload} | {row.clients} x {row.instances} | {row.contestant} | "
            f"{row.requests_s:.1f}{failed} | {low:.1f} to {high:.1f} | {row.p50_ms:.2f} | "
            f"{row.p99_ms:.2f} | {row.ours_over_this:.2f} |"
        )
    lines += [
        "",
        "| workload | clients x instances | ours / best peer | ours / limit | ours / stock |",
        "|---|---|---|---|---|",
    ]
    for ratio in ratios(measured):
        lines.append(
            f"| {ratio['workload']} | {ratio['clients']} x {ratio['instances']} | "
            f"{_text(ratio['ours_over_best_peer'])} ({ratio['best_peer']}) | "
            f"{_text(ratio['ours_over_limit'])} | {_text(ratio['ours_over_stock'])} |"
        )
    return "\n".join(lines)


def _text(ratio: float | None) -> str:
    return "not run" if ratio is None else f"{ratio:.2f}"


def write(measured: list[Row], ended: datetime.datetime, folder: Path) -> Path:
    """Write FOLDER/run-TIME.json, and the table as run-TIME.md; return the JSON file."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    document = {
        "ended": ended.isoformat(timespec="seconds"),
        "machine": {
            "cpu": machine(),
            "memory_gib": round(memory / 2**30, 1),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "rows": [row._asdict() for row in measured],
        "ratios": ratios(measured),
    }
    file = folder / f"run-{ended:%Y%m%d-%H%M%S}.json"
    file.write_text(json.dumps(document, indent=2) + "\n")
    file.with_suffix(".md").write_text(table(measured) + "\n")
    return file


def machine() -> str:
    """Return the machine's processor and number of cores."""
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    cores = len(os.sched_getaffinity(0))
    return f"{model[1] if model else 'unknown processor'}, {cores} cores"
