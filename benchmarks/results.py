"""The results of `make bench`: a table in Markdown and a JSON file."""

import datetime
import json
import os
import platform
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.load import LoadResult, median

CEILING, OURS, STOCK = "ceiling", "ours", "stock TorchServe"


class LoadProfile(NamedTuple):
    """How the servers are loaded."""

    clients: int
    instances: int
    """Per request."""

    def __str__(self) -> str:
        return f"{self.clients} x {self.instances}"


class Row(NamedTuple):
    """One server under one load profile; README.md of this folder describes the keys."""

    workload: str
    server: str
    clients: int
    instances: int
    requests_per_s: float
    spread: tuple[float, float]
    p50_ms: float
    p99_ms: float
    failed: int
    ours_over_this: float


def summarize(workload: str, profile: LoadProfile, loads: dict[str, list[LoadResult]]) -> list[Row]:
    """Return a row for each server, with the medians of its rounds."""
    ours = median(loads[OURS]).requests_per_s
    rows = []
    for server, rounds in loads.items():
        rates, middle = [round(each.requests_per_s, 2) for each in rounds], median(rounds)
        rows.append(
            Row(
                workload,
                server,
                *profile,
                round(middle.requests_per_s, 2),
                (min(rates), max(rates)),
                round(middle.p50_ms, 3),
                round(middle.p99_ms, 3),
                sum(each.failed for each in rounds),
                round(ours / max(middle.requests_per_s, 1e-9), 3),
            )
        )
    return rows


def compute_ratios(rows: list[Row]) -> list[dict[str, Any]]:
    """Return our rate over those of the ceiling, stock TorchServe and the best peer, by load profile."""
    groups: dict[tuple[str, LoadProfile], list[Row]] = {}
    for row in rows:
        profile = LoadProfile(row.clients, row.instances)
        groups.setdefault((row.workload, profile), []).append(row)
    ratios = []
    for (workload, profile), group in groups.items():
        ours_over = {row.server: row.ours_over_this for row in group}
        peers = [server for server in ours_over if server not in (CEILING, OURS, STOCK)]
        best = min(peers, key=lambda server: ours_over[server], default="no peer")
        comparison = {
            "best_peer": best,
            "ours_over_best_peer": ours_over.get(best),
            "ours_over_ceiling": ours_over.get(CEILING),
            "ours_over_stock": ours_over.get(STOCK),
        }
        ratios.append({"workload": workload, **profile._asdict(), **comparison})
    return ratios


def format_table(rows: list[Row]) -> str:
    """Return the rows and the ratios as Markdown."""
    lines = [
        "| workload | clients x instances | server | requests/s | min to max | p50 ms | p99 ms | ours / this |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row.spread
        failed = f", {row.failed} failed" if row.failed else ""
        lines.append(
            f"| {row.workload} | {row.clients} x {row.instances} | {row.server} | "
            f"{row.requests_per_s:.1f}{failed} | {low:.1f} to {high:.1f} | {row.p50_ms:.2f} | "
            f"{row.p99_ms:.2f} | {row.ours_over_this:.2f} |"
        )
    lines += [
        "",
        "| workload | clients x instances | ours / best peer | ours / ceiling | ours / stock |",
        "|---|---|---|---|---|",
    ]
    for ratio in compute_ratios(rows):
        lines.append(
            f"| {ratio['workload']} | {ratio['clients']} x {ratio['instances']} | "
            f"{_format(ratio['ours_over_best_peer'])} ({ratio['best_peer']}) | "
            f"{_format(ratio['ours_over_ceiling'])} | {_format(ratio['ours_over_stock'])} |"
        )
    return "\n".join(lines)


def _format(ratio: float | None) -> str:
    return "not run" if ratio is None else f"{ratio:.2f}"


def write_rows(rows: list[Row], folder: Path) -> Path:
    """Write FOLDER/run-TIME.json, and the table as run-TIME.md; return the JSON file."""
    documents = [row._asdict() for row in rows]
    file = write_json("run", {"rows": documents, "ratios": compute_ratios(rows)}, folder)
    file.with_suffix(".md").write_text(format_table(rows) + "\n")
    return file


def write_json(name: str, results: dict[str, Any], folder: Path) -> Path:
    """Write FOLDER/NAME-TIME.json with the results, the time and the machine; return the file."""
    ended = datetime.datetime.now(datetime.UTC)
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    machine = {
        "cpu": describe_cpu(),
        "memory_gib": round(memory_bytes / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    document = {"ended": ended.isoformat(timespec="seconds"), "machine": machine, **results}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}-{ended:%Y%m%d-%H%M%S}.json"
    file.write_text(json.dumps(document, indent=2) + "\n")
    return file


def describe_cpu() -> str:
    """Return the machine's processor and the number of available cores."""
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    cores = len(os.sched_getaffinity(0))
    return f"{model[1] if model else 'unknown processor'}, {cores} cores"
