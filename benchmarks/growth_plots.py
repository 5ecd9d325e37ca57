"""Draw what benchmarks.growth measured, in the peers' environment, where matplotlib is."""

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

Row = dict[str, Any]


def main(run: Path) -> None:
    """Draw RUN.png."""
    rows = json.loads(run.read_text())["rows"]
    figure, ((instances, pixels), (clients, minutes)) = plt.subplots(
        2, 2, figsize=(13, 9), layout="constrained"
    )
    draw = {
        "instances": (_each, instances),
        "pixels": (_pixels, pixels),
        "clients": (_clients, clients),
        "minutes": (_minutes, minutes),
    }
    for axis, (plot, axes) in draw.items():
        if chosen := [row for row in rows if row["axis"] == axis]:
            plot(axes, chosen)
            axes.grid(visible=True, alpha=0.3)
        else:
            axes.set_axis_off()
    figure.savefig(run.with_suffix(".png"), dpi=110)
    print(run.with_suffix(".png"))


def _each(axes: Axes, rows: list[Row]) -> None:
    values = [row["value"] for row in rows]
    axes.plot(values, [row["p50_ms"] / row["value"] for row in rows], marker="o", label="p50")
    axes.plot(values, [row["p99_ms"] / row["value"] for row in rows], marker="o", label="p99")
    axes.set(xscale="log", yscale="log", xlabel="instances a request", ylabel="ms an instance")
    axes.legend()


def _pixels(axes: Axes, rows: list[Row]) -> None:
    values = [row["value"] for row in rows]
    axes.plot(values, [row["p50_ms"] for row in rows], marker="o", label="p50")
    axes.plot(values, [row["p99_ms"] for row in rows], marker="o", label="p99")
    axes.set(xscale="log", yscale="log", xlabel="pixels of the JPEG", ylabel="ms a request")
    axes.legend()


def _clients(axes: Axes, rows: list[Row]) -> None:
    values = [row["value"] for row in rows]
    axes.plot(values, [row["answered_s"] for row in rows], marker="o", label="answered a second")
    axes.plot(values, [row["p99_ms"] for row in rows], marker="o", label="p99, ms")
    axes.set(xscale="log", yscale="log", xlabel="clients")
    axes.legend()


def _minutes(axes: Axes, rows: list[Row]) -> None:
    values = [row["value"] for row in rows]
    axes.plot(values, [row["memory_mb"] for row in rows], label="memory, MB")
    axes.plot(values, [row["p99_ms"] for row in rows], label="p99, ms")
    axes.set(xlabel="minutes at a steady load", ylim=(0, None))
    axes.legend()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
