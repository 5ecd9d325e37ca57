"""Draw what was simulated: requests, replicas, refusals and the p99, a column for each product."""

import importlib.util
from pathlib import Path

from deploy.errors import Stop
from deploy.estimate.simulate import Outcome

WHERE = (
    "build/bench/venv/bin/python -m deploy estimate --plot has it, once `make bench` has made that"
)


def needed() -> None:
    """Raise Stop where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise Stop("--plot needs matplotlib, which is not installed here", WHERE)


def draw(outcomes: dict[str, Outcome], file: Path) -> None:
    """Write FILE, a picture of the kind that its name ends in; raise Stop."""
    needed()
    import matplotlib as mpl  # noqa: PLC0415  it is not there where the report is wanted alone

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, columns = plt.subplots(
        3,
        len(outcomes),
        figsize=(5 * len(outcomes), 8),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for number, (name, outcome) in enumerate(outcomes.items()):
        rates, replicas, p99 = (row[number] for row in columns)
        at = [each.at_s / 3600 for each in outcome.moments]
        rates.plot(at, [each.came for each in outcome.moments], label="come")
        rates.plot(at, [each.refused for each in outcome.moments], label="refused", color="tab:red")
        rates.set(title=name, ylabel="requests a second", ylim=(0, None))
        rates.legend()
        replicas.step(at, [each.replicas for each in outcome.moments], where="post")
        replicas.set(ylabel="replicas, those that start too", ylim=(0, None))
        p99.plot(at, [each.p99_ms for each in outcome.moments])
        p99.set(ylabel="p99 in the replica, ms", xlabel="hours", ylim=(0, None))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
