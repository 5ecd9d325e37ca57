"""Draw a run: throughput and latency against clients, and each contestant against the limit.

It runs in the peers' environment, where matplotlib is: python -m benchmarks.plots RUN.json
"""

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

LIMIT, OURS = "bare limit", "ours"
COLOURS = ("black", "tab:orange", "tab:gray", "tab:blue", "tab:green", "tab:purple", "tab:red")
Row = dict[str, Any]


def main(run: Path) -> None:
    """Draw RUN-WORKLOAD.png for every workload of a run."""
    rows = json.loads(run.read_text())["rows"]
    for workload in dict.fromkeys(row["workload"] for row in rows):
        file = run.with_name(f"{run.stem}-{workload}.png")
        draw([row for row in rows if row["workload"] == workload], workload, file)
        print(file)


def draw(rows: list[Row], workload: str, file: Path) -> None:
    """Draw one workload."""
    figure, ((rate, p50), (p99, bars)) = plt.subplots(2, 2, figsize=(13, 9), layout="constrained")
    figure.suptitle(f"{workload}: medians of interleaved rounds")
    names = dict.fromkeys(row["contestant"] for row in _best(rows))
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}
    alone = _best([row for row in rows if row["instances"] == 1])
    _lines(rate, alone, "requests_s", "requests a second", colours)
    _lines(p50, alone, "p50_ms", "p50, ms", colours)
    _lines(p99, alone, "p99_ms", "p99, ms", colours)
    _bars(bars, _best(rows), colours)
    handles, labels = rate.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _best(rows: list[Row]) -> list[Row]:
    """Leave of a peer's layouts the better one in each cell, under the peer's name alone."""
    best: dict[tuple[str, int, int], Row] = {}
    for row in rows:
        name = row["contestant"]
        words = name.rsplit(" ", 1)
        plain = words[0] if "x" in words[-1] and words[-1][0].isdigit() else name
        cell = (plain, row["clients"], row["instances"])
        if cell not in best or row["requests_s"] > best[cell]["requests_s"]:
            best[cell] = row | {"contestant": plain}
    return list(best.values())


def _lines(axes: Axes, rows: list[Row], key: str, label: str, colours: dict[str, str]) -> None:
    for name in dict.fromkeys(row["contestant"] for row in rows):
        points = sorted((row["clients"], row[key]) for row in rows if row["contestant"] == name)
        style = "--" if name == LIMIT else "-"
        width = 2.6 if name == OURS else 1.3
        axes.plot(
            *zip(*points, strict=True),
            style,
            marker="o",
            linewidth=width,
            label=name,
            color=colours[name],
        )
    axes.set(xscale="log", yscale="log", xlabel="clients", ylabel=label)
    clients = sorted({row["clients"] for row in rows})
    axes.set_xticks(clients, [str(count) for count in clients])
    axes.minorticks_off()
    axes.grid(visible=True, alpha=0.3)


def _bars(axes: Axes, rows: list[Row], colours: dict[str, str]) -> None:
    """Draw each contestant's rate as a part of the limit's, cell by cell."""
    cells = list(dict.fromkeys((row["clients"], row["instances"]) for row in rows))
    limits = {
        (row["clients"], row["instances"]): row["requests_s"]
        for row in rows
        if row["contestant"] == LIMIT
    }
    names = [name for name in dict.fromkeys(row["contestant"] for row in rows) if name != LIMIT]
    width = 0.85 / len(names)
    for place, name in enumerate(names):
        rates = {
            (r["clients"], r["instances"]): r["requests_s"] for r in rows if r["contestant"] == name
        }
        heights = [rates.get(cell, 0) / limits[cell] for cell in cells]
        axes.bar(
            [index + place * width for index in range(len(cells))],
            heights,
            width,
            color=colours[name],
        )
    axes.axhline(1, linestyle="--", color="black", linewidth=1)
    middles = [index + width * (len(names) - 1) / 2 for index in range(len(cells))]
    axes.set_xticks(middles, [f"{clients} x {instances}" for clients, instances in cells])
    axes.set(xlabel="clients x instances a request", ylabel="of the bare limit")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
