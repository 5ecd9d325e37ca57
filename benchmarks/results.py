"""What came of a run: a table for people, a JSON file for programs, plots for both."""

import datetime
import json
import os
import platform
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import report
from benchmarks.load import Load

LIMIT, OURS, STOCK = "bare limit", "ours", "stock TorchServe"


class Cell(NamedTuple):
    """How it is asked."""

    clients: int
    instances: int
    """In each request."""


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
    """Make rows of what was measured: medians of the turns."""
    rates = {name: [load.requests_s for load in each] for name, each in loads.items()}
    ours = statistics.median(rates[OURS])
    return [
        Row(
            workload,
            name,
            cell.clients,
            cell.instances,
            round(statistics.median(rates[name]), 2),
            (round(min(rates[name]), 2), round(max(rates[name]), 2)),
            round(statistics.median(load.p50_ms for load in each), 3),
            round(statistics.median(load.p99_ms for load in each), 3),
            sum(load.failed for load in each),
            round(ours / max(statistics.median(rates[name]), 1e-9), 3),
        )
        for name, each in loads.items()
    ]


def ratios(measured: list[Row]) -> list[dict[str, Any]]:
    """Return, for each workload and cell, ours over the limit, the stock and the best peer."""
    found = []
    for workload, clients, instances in dict.fromkeys(
        (row.workload, row.clients, row.instances) for row in measured
    ):
        here = {
            r.contestant: r for r in measured if r[:1] + r[2:4] == (workload, clients, instances)
        }
        peers = [row for row in here.values() if row.contestant not in (LIMIT, OURS, STOCK)]
        peers = [row for row in peers if not row.contestant.startswith(STOCK)]
        best = max(peers, key=lambda row: row.requests_s, default=None)
        stock = next((row for row in here.values() if row.contestant.startswith(STOCK)), None)
        found.append(
            {
                "workload": workload,
                "clients": clients,
                "instances": instances,
                "best_peer": best.contestant if best else None,
                "ours_over_best_peer": best.ours_over_this if best else None,
                "ours_over_limit": here[LIMIT].ours_over_this,
                "ours_over_stock": stock.ours_over_this if stock else None,
            }
        )
    return found


def table(measured: list[Row]) -> str:
    """Write the rows and the ratios for people, as Markdown."""
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
    ]
    lines.append("|---|---|---|---|---|")
    for ratio in ratios(measured):
        lines.append(
            f"| {ratio['workload']} | {ratio['clients']} x {ratio['instances']} | "
            f"{_said(ratio['ours_over_best_peer'])} ({ratio['best_peer']}) | "
            f"{_said(ratio['ours_over_limit'])} | {_said(ratio['ours_over_stock'])} |"
        )
    return "\n".join(lines)


def _said(ratio: float | None) -> str:
    return "not run" if ratio is None else f"{ratio:.2f}"


def write(measured: list[Row], ended: datetime.datetime, folder: Path) -> Path:
    """Write FOLDER/run-TIME.json, the table and the plots; return the JSON file."""
    stem = folder / f"run-{ended:%Y%m%d-%H%M%S}"
    document = {
        "ended": ended.isoformat(timespec="seconds"),
        "machine": {
            "cpu": report.machine(),
            "memory_gib": round(
                os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1
            ),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "rows": [row._asdict() for row in measured],
        "ratios": ratios(measured),
    }
    file = stem.with_suffix(".json")
    file.write_text(json.dumps(document, indent=2) + "\n")
    stem.with_suffix(".md").write_text(table(measured) + "\n")
    return file
