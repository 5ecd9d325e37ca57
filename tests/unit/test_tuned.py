"""What make tune finds, writes, and how it is followed."""

import argparse
from pathlib import Path

import pytest

from benchmarks import tune
from benchmarks.load import Load
from benchmarks.tune import Champion, Objective
from serving import artifact, local, model_config, resources
from serving.artifact import Artifact
from serving.errors import ArchiveError
from serving.layout import Layout, choose_layout
from serving.torchserve import TorchServeConfig

FOUND = Layout(workers=3, threads=2, batch_size=16, batch_delay_ms=5)
GIB = 1 << 30


def test_a_layout_is_followed_on_as_many_cores_as_it_was_found_on() -> None:
    text = model_config.render(FOUND, 6, {"requests_s": 1.5})
    assert model_config.resolve_layout(text, 6, None, 0) == FOUND._replace(
        source="model-config.yaml"
    )


TEXT = model_config.render(FOUND, 6, {})


@pytest.mark.parametrize(
    ("text", "cores", "memory", "expected", "reason"),
    [
        (TEXT, 6, None, FOUND, ""),
        (TEXT, 2, None, choose_layout(2, None), "is for 6 cores"),
        (TEXT, 6, GIB, choose_layout(6, GIB), "needs more memory"),
        (None, 4, None, choose_layout(4, None), ""),
    ],
)
def test_a_file_is_followed_where_it_fits_and_elsewhere_the_default_serves_and_says_so(
    text: str | None, cores: int, memory: int | None, expected: Layout, reason: str
) -> None:
    chosen = model_config.resolve_layout(text, cores, memory, 0)
    assert chosen[:4] == expected[:4]
    assert reason in str(chosen)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "not YAML"),
        ("- 1", "expected a mapping"),
        ("minWorkers: 0", "minWorkers: expected an integer of at least 1, got 0"),
        (
            "{minWorkers: 1, batchSize: true}",
            "batchSize: expected an integer of at least 1, got True",
        ),
        (
            "{minWorkers: 1, batchSize: 1, maxBatchDelay: -1}",
            "maxBatchDelay: expected an integer of at least 0",
        ),
        ("{minWorkers: 1, batchSize: 1, maxBatchDelay: 0, threads: 1}", "cores: expected"),
    ],
)
def test_a_file_by_hand_is_told_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(model_config.ModelConfigError, match=reason):
        model_config.parse(text)


def test_an_archive_is_served_by_the_layout_in_it(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    config = tmp_path / model_config.CONFIG
    settings = TorchServeConfig(
        archive=tmp_path, run_dir=tmp_path, layout=Layout(1, 1), address="http://127.0.0.1:1"
    )
    config.write_text(model_config.render(FOUND, resources.cores(), {}))
    unlimited = artifact.with_layout(settings, Artifact(tmp_path, None)).layout
    assert unlimited[:4] == FOUND[:4] or "memory" in unlimited.source
    config.write_text("minWorkers: none")
    with pytest.raises(ArchiveError, match="minWorkers"):
        artifact.with_layout(settings, Artifact(tmp_path, None))


def test_a_layout_is_given_in_one_word() -> None:
    assert local.parse_layout("3x2,16,5")[:4] == FOUND[:4]
    assert local.parse_layout("2x1") == Layout(2, 1, source="--layout")
    with pytest.raises(argparse.ArgumentTypeError, match="expected WORKERSxTHREADS"):
        local.parse_layout("0x1")


@pytest.mark.parametrize(
    ("cores", "room", "expected"),
    [
        (1, 1, [(1, 1)]),
        (2, 2, [(2, 1), (1, 2)]),
        (8, 8, [(8, 1), (4, 2), (2, 4), (1, 8)]),
        (6, 6, [(6, 1), (3, 2), (1, 4)]),
        (4, 1, [(1, 4), (1, 2), (1, 1)]),
    ],
)
def test_every_spread_that_fits_is_tried(
    cores: int, room: int, expected: list[tuple[int, int]]
) -> None:
    assert tune.spreads(cores, room) == expected


def load(requests_s: float = 100, p50_ms: float = 10, p99_ms: float = 20) -> Load:
    return Load(requests_s, p50_ms, p99_ms, 0)


THROUGHPUT, LATENCY = Objective(32, 50, latency=False), Objective(1, 50, latency=True)


@pytest.mark.parametrize(
    ("objective", "challenger", "champion", "better"),
    [
        (THROUGHPUT, load(110), load(100), True),
        (THROUGHPUT, load(101), load(100), False),
        (THROUGHPUT, load(200, p99_ms=51), load(100, p99_ms=49), False),
        (THROUGHPUT, load(50, p99_ms=49), load(100, p99_ms=51), True),
        (THROUGHPUT, load(50, p99_ms=60), load(100, p99_ms=80), True),
        (LATENCY, load(p50_ms=9), load(p50_ms=10), True),
        (LATENCY, load(1000, p50_ms=10), load(p50_ms=10), False),
    ],
)
def test_throughput_counts_within_the_bound_and_latency_is_that_of_the_median_answer(
    objective: Objective, challenger: Load, champion: Load, better: bool
) -> None:
    assert objective.better(challenger, champion) is better


class Simulated(Champion):
    """Servers whose rate is known: best with 1 x 2, batches of 8, 5 ms of delay."""

    duels = 0

    def duel(self, layout: Layout) -> list[list[Load]]:
        self.duels += 1
        return [[self.rate(each)] * 3 for each in (self.layout, layout)]

    def rate(self, layout: Layout) -> Load:
        gained = {1: 1.0, 2: 2.0}[layout.threads]
        for value, best in ((layout.batch_size, 8), (layout.batch_delay_ms or 1, 5)):
            gained /= 1 + abs(value - best) / best
        return load(1000 * gained, p50_ms=10 / layout.threads)


@pytest.mark.parametrize(
    ("objective", "found", "duels"),
    [(THROUGHPUT, Layout(1, 2, 8, 5), 7), (LATENCY, Layout(1, 2), 1)],
    ids=["the best of all", "for one client only the spread is tried"],
)
def test_the_best_is_found(objective: Objective, found: Layout, duels: int) -> None:
    champion = Simulated(Layout(2, 1), objective, argparse.Namespace())
    tune.find(champion, cores=2, room=2)
    assert (champion.layout[:4], champion.duels) == (found[:4], duels)
