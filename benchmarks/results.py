"""The results of a run of `make bench`: a table for people, a JSON file for programs."""

import datetime
import json
import os
import platform
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.load import Load, median

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
    ours = median(loads[OURS]).requests_s
    found = []
    for name, each in loads.items():
        rates, middle = [round(load.requests_s, 2) for load in each], median(each)
        found.append(
            Row(
                workload,
                name,
                *cell,
                round(middle.requests_s, 2),
                (min(rates), max(rates)),
                round(middle.p50_ms, 3),
                round(middle.p99_ms, 3),
                sum(load.failed for load in each),
                round(ours / max(middle.requests_s, 1e-9), 3),
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
        over = {row.contestant: row.ours_over_this for row in here}
        peers = [name for name in over if name not in (LIMIT, OURS, STOCK)]
        best = min(peers, key=lambda name: over[name], default="no peer")
        compared = {
            "best_peer": best,
            "ours_over_best_peer": over.get(best),
            "ours_over_limit": over.get(LIMIT),
            "ours_over_stock": over.get(STOCK),
        }
        found.append({"workload": workload, **cell._asdict(), **compared})
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


def write(measured: list[Row], folder: Path) -> Path:
    """Write FOLDER/run-TIME.json, and the table as run-TIME.md; return the JSON file."""
    rows_ = [row._asdict() for row in measured]
    file = save("run", {"rows": rows_, "ratios": ratios(measured)}, folder)
    file.with_suffix(".md").write_text(table(measured) + "\n")
    return file


def save(name: str, measured: dict[str, Any], folder: Path) -> Path:
    """Write FOLDER/NAME-TIME.json, with the time and the machine beside what was measured; return it."""
    ended = datetime.datetime.now(datetime.UTC)
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    about = {
        "cpu": machine(),
        "memory_gib": round(memory_bytes / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    document = {"ended": ended.isoformat(timespec="seconds"), "machine": about, **measured}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}-{ended:%Y%m%d-%H%M%S}.json"
    file.write_text(json.dumps(document, indent=2) + "\n")
    return file


def machine() -> str:
    """Return the machine's processor and number of cores."""
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    cores = len(os.sched_getaffinity(0))
    return f"{model[1] if model else 'unknown processor'}, {cores} cores"
