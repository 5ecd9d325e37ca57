"""Draw what benchmarks.dashboard read, in the peers' environment, where matplotlib is."""

import json
import sys
from pathlib import Path

from matplotlib import pyplot as plt

UNITS = {"reqps": "a second", "s": "ms", "ops": "a second", "bytes": "MB", "short": ""}
SCALES = {"s": 1e3, "bytes": 1e-6}


def main(read: Path, to: Path) -> None:
    """Draw TO."""
    document = json.loads(read.read_text())
    figure, axes = plt.subplots(4, 2, figsize=(13, 13), layout="constrained")
    figure.suptitle(document["machine"], fontsize=9)
    for place, panel in zip(axes.flat, document["panels"], strict=True):
        scale = SCALES.get(panel["unit"], 1)
        for line in panel["lines"]:
            seconds, values = zip(*line["points"], strict=True)
            place.plot(seconds, [value * scale for value in values], label=line["name"])
        place.set(title=panel["title"], ylabel=UNITS[panel["unit"]], xlabel="s")
        # From a millisecond to the seconds of a crowd.
        place.set(yscale="log") if panel["unit"] == "s" else place.set(ylim=(0, None))
        place.grid(visible=True, alpha=0.3)
        place.legend(fontsize=8, loc="upper left")
    figure.savefig(to, dpi=80)
    print(to)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
