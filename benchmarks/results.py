"""The results of `make bench`: a JSON file, and tables in Markdown."""

import datetime
import json
import os
import platform
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.load import LoadResult, median

CEILING, OURS, STOCK = "bare limit", "ours", "stock TorchServe"


class LoadProfile(NamedTuple):
    """How the servers are loaded."""

    clients: int
    instances: int
    """Per request."""

    def __str__(self) -> str:
        return f"{self.clients} x {self.instances}"

    @property
    def heading(self) -> str:
        """The heading of a column."""
        if self.instances > 1:
            return f"{self.clients} × {self.instances} instances"  # noqa: RUF001
        return "1 client" if self.clients == 1 else str(self.clients)


PROFILES = (LoadProfile(1, 1), LoadProfile(8, 1), LoadProfile(32, 1), LoadProfile(4, 16))


class Row(NamedTuple):
    """One server under one load profile; README.md of this folder describes the keys."""

    workload: str
    server: str
    clients: int
    instances: int
    rates_per_s: list[float]
    is_compared: bool
    p50_ms: float
    p99_ms: float
    failed: int

    @property
    def requests_per_s(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rates_per_s)

    @property
    def cell(self) -> str:
        """The workload and the load profile."""
        return f"{self.workload}, {LoadProfile(self.clients, self.instances)}"


class Ratio(NamedTuple):
    """Our requests per second over those of another server, by the rounds in which both were measured."""

    server: str
    median: float
    low: float
    high: float
    """The quartiles."""

    def __str__(self) -> str:
        spread = "" if self.low == self.high else f" ({self.low:.2f} to {self.high:.2f})"
        return f"{self.median:.2f}{spread}"


def build_row(
    workload: str,
    server: str,
    profile: LoadProfile,
    rounds: Sequence[LoadResult],
    *,
    is_compared: bool,
) -> Row:
    """Return the row of a server, with the medians of its rounds; `is_compared` unless it has only a trial."""
    middle = median(list(rounds))
    return Row(
        workload,
        server,
        *profile,
        [round(each.requests_per_s, 2) for each in rounds],
        is_compared,
        round(middle.p50_ms, 3),
        round(middle.p99_ms, 3),
        sum(each.failed for each in rounds),
    )


def is_peer(server: str) -> bool:
    """Return whether a server is another one than ours, the bare limit and stock TorchServe."""
    return not server.startswith((OURS, CEILING, STOCK))


def compare(ours: Row, other: Row) -> Ratio:
    """Return the ratio of two rows with the same rounds."""
    pairs = zip(ours.rates_per_s, other.rates_per_s, strict=True)
    ratios = [mine / max(theirs, 1e-9) for mine, theirs in pairs]
    low, middle, high = quartiles(ratios)
    return Ratio(other.server, middle, low, high)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def find_failures(rows: Iterable[Row]) -> list[str]:
    """Return a line for each row with failed requests or without answers, of the servers that are compared."""
    return [
        f"{row.cell}: {row.server}: {row.failed} requests failed, {min(row.rates_per_s):.1f} answers per second"
        for row in rows
        if row.is_compared and (row.failed or not min(row.rates_per_s))
    ]


def format_rows(rows: Sequence[Row]) -> str:
    """Return all rows as a table in Markdown."""
    lines = [
        "| workload, clients x instances | server | requests/s | quartiles | p50 ms | p99 ms | ours / this |",
        "|---|---|---|---|---|---|---|",
    ]
    ours = {row.cell: row.requests_per_s for row in reversed(rows) if row.server.startswith(OURS)}
    for row in rows:
        low, middle, high = quartiles(row.rates_per_s)
        spread = f"{low:.1f} to {high:.1f}" if row.is_compared else "one trial"
        failed = f", {row.failed} failed" if row.failed else ""
        ratio = f"{ours[row.cell] / middle:.2f}" if middle and row.cell in ours else ""
        lines.append(
            f"| {row.cell} | {row.server} | {middle:.1f}{failed} | {spread} | "
            f"{row.p50_ms:.2f} | {row.p99_ms:.2f} | {ratio} |"
        )
    return "\n".join(lines)


def format_ratios(document: dict[str, Any]) -> str:
    """Return the ratios of a results file as tables in Markdown, with the machine and the date."""
    rows = [Row(**row) for row in document["rows"]]
    profiles = list(dict.fromkeys(LoadProfile(row.clients, row.instances) for row in rows))
    best_peers: dict[str, list[str]] = {}
    tables: dict[str, list[str]] = {"best tuned peer": [], CEILING: []}
    groups = dict.fromkeys(
        (row.workload, row.server) for row in rows if row.server.startswith(OURS)
    )
    for workload, server in groups:
        name = workload + server.removeprefix(OURS)
        ratios = [_find_ratios(rows, workload, server, profile) for profile in profiles]
        for index, lines in enumerate(tables.values()):
            cells = [str(pair[index] or "not run") for pair in ratios]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        best_peers[workload] = [pair[0].server if pair[0] else "not run" for pair in ratios]
    heading = " | ".join(profile.heading for profile in profiles)
    text = [
        f"{document['ended'][:10]}, {document['machine']['cpu']}, "
        f"{document['machine']['memory_gib']:.0f} GiB; medians of the rounds, and their quartiles."
    ]
    for name, lines in tables.items():
        text.append(
            "\n".join(
                [f"| ours ÷ {name} | {heading} |", "|---" * (len(profiles) + 1) + "|", *lines]
            )
        )
    listed = [f"{workload}: {', '.join(names)}" for workload, names in best_peers.items()]
    text.append(f"The best peers, in the order of the columns: {'; '.join(listed)}.")
    return "\n\n".join(text)


def _find_ratios(
    rows: Sequence[Row], workload: str, server: str, profile: LoadProfile
) -> tuple[Ratio | None, Ratio | None]:
    """Return the ratios of a server of ours over the best peer and over the ceiling."""
    cell = [
        row
        for row in rows
        if (row.workload, row.clients, row.instances) == (workload, *profile) and row.is_compared
    ]
    ours = next((row for row in cell if row.server == server), None)
    if ours is None:
        return None, None
    peers = [compare(ours, row) for row in cell if is_peer(row.server)]
    ceilings = [compare(ours, row) for row in cell if row.server == CEILING]
    return min(peers, key=lambda ratio: ratio.median, default=None), next(iter(ceilings), None)


def write_rows(rows: Sequence[Row], folder: Path) -> Path:
    """Write FOLDER/run-TIME.json, and the tables as run-TIME.md; return the JSON file."""
    file = write_json("run", {"rows": [row._asdict() for row in rows]}, folder)
    tables = f"{format_ratios(json.loads(file.read_text()))}\n\n{format_rows(rows)}\n"
    file.with_suffix(".md").write_text(tables)
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
