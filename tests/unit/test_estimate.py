"""What the calculator of replicas and costs makes of traffics whose answer is known."""

import json
import math
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from google.cloud import monitoring_v3

from benchmarks import burst
from deploy import cost
from deploy.__main__ import main
from deploy.errors import Stop
from deploy.estimate import curve as curves
from deploy.estimate import measured, products, report
from deploy.estimate.bill import Bill, bill, hours
from deploy.estimate.curve import Curve
from deploy.estimate.products import Product, Start, Wish
from deploy.estimate.replica import Point, Replica
from deploy.estimate.scaler import Rules, Scaler, Seen
from deploy.estimate.simulate import Outcome, Setting, fewest, simulate
from deploy.estimate.waiting import Waiting
from deploy.plan import Machine
from tests.cloud.guide import run as held_against
from tests.cloud.guide import shown
from tests.pictures import ROOT

PAGE = ROOT / "docs" / "scale.md"
SMALL = Machine("e2-standard-2")
TEN = Replica((Point(10, 100, 100),), limit=20)
"""100/s with 10 in flight, so 0.1 s a request; 10 more may wait."""
FIXED = Rules(every_s=15, target=1, see_s=0, mean_s=15, keep_s=300)


def fixed(replica: Replica, count: int) -> Setting:
    return Setting(replica, FIXED, start_s=60, least=count, most=count)


def random_curve(seed: int) -> Curve:
    rng = random.Random(seed)
    return Curve(7, tuple(rng.choice((0, 20, 90, 110, 300)) for _ in range(60)), "random")


# Curves


def test_a_wave_has_its_low_at_midnight_its_peak_at_noon_and_the_middle_on_average() -> None:
    wave = curves.wave(peak=100, low=20)
    assert (wave.rates[0], wave.rates[len(wave.rates) // 2]) == (20, 100)
    assert wave.mean == pytest.approx(60)
    assert wave.seconds == 86400


def test_a_burst_is_ten_minutes_of_a_day() -> None:
    burst_ = curves.burst(peak=100, low=20)
    assert sum(rate == 100 for rate in burst_.rates) * burst_.step_s == 600
    assert set(burst_.rates) == {20, 100}
    assert burst_.seconds == 86400


@pytest.mark.parametrize("name", ["steady", "wave", "burst"])
def test_the_curves_in_docs_are_the_generated_ones_and_say_so(name: str, tmp_path: Path) -> None:
    made = {
        "steady": curves.steady(5000),
        "wave": curves.wave(5000, 500),
        "burst": curves.burst(5000, 500),
    }[name]
    curves.write(made, tmp_path / "made.csv")
    file = ROOT / "docs" / "curves" / f"{name}.csv"
    assert file.read_text() == (tmp_path / "made.csv").read_text()
    assert file.read_text().startswith("# generated: ")
    read = curves.read(file)
    assert read.step_s == made.step_s
    assert read.rates == pytest.approx(made.rates)


def test_a_recording_counts_requests_in_each_step_and_a_missing_row_is_none(tmp_path: Path) -> None:
    file = tmp_path / "recorded.csv"
    file.write_text(
        "requests,time\n60,2026-11-24T12:00:00Z\n120,2026-11-24T12:01:00Z\n"
        "\n# a gap\n6,2026-11-24 12:03:00 UTC\n"
    )
    read = curves.read(file)
    assert (read.step_s, read.rates) == (60, (1, 2, 0, 0.1))
    assert read.peak == 2


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this machine be where clocks go from one to three on the 30th of March 2014, at 01:00 UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("berlin")
def test_a_time_without_a_zone_is_utc_and_other_columns_do_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "elsewhere.csv"
    file.write_text(
        "timestamp,value,label,notes\n2014-03-30 01:59:00,300,0,\n2014-03-30 03:04:00,3900,0,\n"
    )
    # Berlin had no time between 02:00 and 03:00 on that day; UTC had.
    assert curves.read(file).step_s == 3900


def test_what_cloud_monitoring_answers_is_added_up_over_its_series(tmp_path: Path) -> None:
    def series(code: str, counts: list[int]) -> monitoring_v3.TimeSeries:
        points = [
            {"interval": {"end_time": {"seconds": 60 * minute}}, "value": {"int64_value": count}}
            for minute, count in reversed(list(enumerate(counts, 1)))
        ]
        return monitoring_v3.TimeSeries(metric={"labels": {"response_code": code}}, points=points)

    answer = monitoring_v3.ListTimeSeriesResponse(
        time_series=[series("200", [60, 120, 180]), series("429", [0, 0, 60])]
    )
    file = tmp_path / "arrivals.json"
    file.write_text(monitoring_v3.ListTimeSeriesResponse.to_json(answer))
    assert curves.read(file).rates == (1, 2, 4)


@pytest.mark.parametrize(
    ("text", "said", "do"),
    [
        ("", "is empty", "time,requests"),
        ("when,requests\n1,2\n", "line 1: the columns are when, requests", "time or timestamp"),
        ("time,requests\n1,2\nnoon,3\n", "line 3: 'noon,3'", "a time in seconds"),
        ("time,requests\n1,2\n2,-3\n", "line 3: '2,-3'", "a number of requests"),
        ("time,requests\n1,2\n2\n", "line 3: '2'", "a number of requests"),
        ("time,requests\n1,2\n", "has 1 rows", "group it"),
        ("time,requests\n2,2\n1,2\n", "the time of row 2 is not after", "sort it"),
        ("time,requests\n0,2\n0.001,2\n9999,2\n", "its smallest step, 0.001 s", "group it"),
        ('{"error": {"code": 403}}', "has 0 rows", "group it"),
        (
            '{"timeSeries": [{"points": [{"value": {}}]}]}',
            "no answer of Cloud Monitoring",
            "docs/scale.md",
        ),
    ],
)
def test_a_file_that_is_no_recording_is_refused_with_the_line_and_what_was_expected(
    tmp_path: Path, text: str, said: str, do: str
) -> None:
    file = tmp_path / "curve.csv"
    file.write_text(text)
    with pytest.raises(Stop) as stop:
        curves.read(file)
    assert str(file) in stop.value.what
    assert said in stop.value.what
    assert do in stop.value.do


def test_the_steepest_rise_is_found_within_the_time_that_counts() -> None:
    curve = Curve(10, (10, 10, 20, 40, 40, 10), "by hand")
    assert curve.steepest(10, room=lambda rate: rate) == (20, 20, 40, 20)
    assert curve.steepest(20, room=lambda rate: rate) == (10, 10, 40, 10)
    assert curve.steepest(20, room=lambda rate: max(rate, 20)) == (20, 20, 40, 20)
    assert curve.steepest(20, room=lambda rate: 100 if rate < 40 else 50) == (40, 40, 40, 50)


# A replica


def test_a_replica_is_as_it_was_measured_and_twice_that_on_twice_the_cores() -> None:
    same, double = measured.QUOTED.replica(2), measured.QUOTED.replica(4)
    for point in measured.QUOTED.points:
        assert same.in_flight(point.per_second) == pytest.approx(point.in_flight)
        assert double.in_flight(2 * point.per_second) == pytest.approx(
            min(2 * point.in_flight, 192)
        )
    assert same.peak == 2743


def test_it_answers_no_more_than_what_its_limit_lets_in() -> None:
    held = measured.QUOTED.replica(2, limit=16)
    assert (held.peak, held.full) == (1433, 16)
    # 64 cores would need 4096 in flight for their peak; the image lets 192 in.
    assert measured.QUOTED.replica(64).peak < 64 * measured.QUOTED.points[-1].per_second / 2


def test_two_numbers_are_enough() -> None:
    one = measured.given(800, 20).replica(2)
    assert (one.peak, one.full) == (1600, 32)
    assert one.p99_ms(32) == 20
    assert one.p99_ms(64) == 40


def test_what_is_quoted_is_what_the_pages_say() -> None:
    said = (ROOT / "benchmarks" / "README.md").read_text()
    rows = [
        [cell.strip().replace(",", "") for cell in line.split("|")[2:-1]]
        for line in said.splitlines()
        if line.startswith(("| clients |", "| answered a second", "| p99, ms |"))
    ]
    clients, answered, p99 = rows
    quoted = {str(point.in_flight): point for point in measured.QUOTED.points}
    for client, rate, ms in zip(clients, answered, p99, strict=True):
        if client in quoted:
            assert quoted[client].per_second == float(rate)
            assert quoted[client].p99_ms == float(ms or 7)
    assert len(quoted) == 8
    assert f"first right answer: {measured.QUOTED_START_S} s" in (ROOT / "README.md").read_text()
    row = re.search(r"\| digits \| 1 \| 2Gi \|.+", (ROOT / "docs" / "functions.md").read_text())
    assert row
    assert f"| {measured.QUOTED_FUNCTION_START_S} s " in row[0]
    assert f"| {measured.QUOTED_FUNCTION_MS} ms |" in row[0]


def test_the_limit_is_the_images_own() -> None:
    text = (ROOT / "docs" / "container.md").read_text()
    assert f"| requests with TorchServe at once | {measured.LIMIT} |" in text


def test_it_reads_what_make_growth_and_make_bench_write(tmp_path: Path) -> None:
    rows = [
        {"axis": "instances", "value": 4, "answered_s": 9, "refused_s": 0, "p99_ms": 1},
        {"axis": "clients", "value": 8, "answered_s": 900, "refused_s": 1, "p99_ms": 12},
        {"axis": "clients", "value": 1, "answered_s": 300, "refused_s": 0, "p99_ms": 4},
        {"axis": "clients", "value": 64, "answered_s": 850, "refused_s": 0, "p99_ms": 90},
        {"axis": "clients", "value": 256, "answered_s": 1200, "refused_s": 9000, "p99_ms": 2},
    ]
    growth = tmp_path / "growth.json"
    growth.write_text(json.dumps({"machine": "AMD EPYC, 4 cores", "rows": rows}))
    found = measured.read([growth], "SMALL")
    assert found.points == (Point(1, 300, 4), Point(8, 900, 12))
    assert found.cores == 4
    ours = {
        "contestant": "ours",
        "workload": "REAL",
        "instances": 1,
        "clients": 8,
        "requests_s": 50.0,
        "p99_ms": 200.0,
    }
    bench = tmp_path / "run.json"
    others = [
        ours | {"contestant": "FastAPI 2x1"},
        ours | {"workload": "SMALL"},
        ours | {"instances": 16, "clients": 9, "requests_s": 70.0},
    ]
    bench.write_text(json.dumps({"machine": {"cpu": "AMD EPYC, 2 cores"}, "rows": [*others, ours]}))
    assert measured.read([bench], "REAL").points == (Point(8, 50, 200),)
    loads = [{"axis": "rate", "of_peak": share, "busy": share**0.5} for share in (0.25, 0.64)]
    load = tmp_path / "burst.json"
    load.write_text(json.dumps({"machine": "AMD EPYC, 2 cores", "rows": loads}))
    both = measured.read([bench, load], "REAL")
    assert both.busy == ((0, 0), (0.25, 0.5), (0.64, 0.8), (1, 1))
    assert both.replica(2).busy(25 * 0.64 * 2) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "holds no JSON object"),
        ("{", "cannot be read"),
        ('{"rows": []}', "has not what a measurement has"),
        ('{"rows": [], "machine": "AMD EPYC"}', "does not end in its cores"),
        (
            '{"rows": [], "machine": "AMD EPYC, 2 cores"}',
            "no row with clients and answers of SMALL",
        ),
    ],
)
def test_a_file_that_is_no_measurement_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "growth.json"
    file.write_text(text)
    with pytest.raises(Stop, match=said) as stop:
        measured.read([file], "SMALL")
    assert stop.value.do


# The queue


def test_a_full_second_by_hand() -> None:
    waiting = Waiting(TEN, patience_s=0, late_ms=150)
    first = waiting.step(0, 1, came=150, ready=1)
    assert (first.served, first.refused, first.present) == (100, 40, 20)
    assert first.p99_ms == 200
    assert first.late == 100
    second = waiting.step(1, 1, came=30, ready=1)
    assert (second.served, second.refused, second.present) == (40, 0, 4)
    assert second.late == 0


def test_where_requests_wait_outside_the_first_are_served_first_and_nobody_for_longer() -> None:
    waiting = Waiting(TEN, patience_s=3, late_ms=1500)
    assert waiting.step(0, 1, came=250, ready=0).outside == 250
    assert waiting.step(1, 1, came=0, ready=0).outside == 250
    third = waiting.step(2, 1, came=50, ready=1)
    # Ten more of the first are let in, so that 140 of them are left, and the 50 new ones.
    assert (third.served, third.late, third.outside) == (100, 110, 190)
    fourth = waiting.step(3, 1, came=0, ready=1)
    # Of the 140, 90 are served and ten let in; 40 have waited for 3 s by now, and go.
    assert (fourth.served, fourth.refused, fourth.outside) == (100, 40, 50)
    fifth = waiting.step(4, 1, came=0, ready=1)
    assert (fifth.served, fifth.late, fifth.outside) == (60, 50, 0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("patience_s", [0, 10])
def test_each_request_is_served_or_refused_or_still_there(seed: int, patience_s: float) -> None:
    rng, waiting = random.Random(seed), Waiting(TEN, patience_s, 250)
    came = served = refused = 0.0
    for second in range(300):
        step = waiting.step(second, 1, rng.choice((0, 50, 180, 400)), rng.choice((0, 1, 2, 3)))
        came, served, refused = came + step.came, served + step.served, refused + step.refused
        assert step.served <= came
    # Whatever was answered within the last step is not in it any more.
    assert came - served - refused >= -1e-6
    assert came - served - refused <= step.outside + 3 * (TEN.limit - TEN.full) + 1e-6


@pytest.mark.parametrize("seed", range(8))
def test_more_replicas_never_refuse_more(seed: int) -> None:
    refused = [simulate(random_curve(seed), fixed(TEN, count)).refused for count in range(1, 6)]
    assert refused == sorted(refused, reverse=True)
    assert refused[0] > refused[-1] == 0


@pytest.mark.parametrize("seed", range(4))
def test_more_kept_warm_never_refuse_more_under_an_autoscaler(seed: int) -> None:
    rules = replace(products.MACHINE_RULES, tolerance=0.1)
    refused = [
        simulate(random_curve(seed), Setting(TEN, rules, start_s=40, least=least)).refused
        for least in range(1, 7)
    ]
    assert refused == sorted(refused, reverse=True)


@pytest.mark.parametrize("point", measured.QUOTED.points)
def test_littles_law_holds_at_a_steady_load(point: Point) -> None:
    outcome = simulate(curves.steady(point.per_second), fixed(measured.QUOTED.replica(2), 1))
    present, rate = outcome.present_s / outcome.seconds, outcome.served / outcome.seconds
    assert present == pytest.approx(point.in_flight)
    # The mean time of a request, as so many clients saw it.
    assert present / rate == pytest.approx(point.in_flight / point.per_second)


def test_past_the_peak_as_many_are_present_as_are_let_in_and_each_waits_for_them() -> None:
    outcome = simulate(curves.steady(5000), fixed(measured.QUOTED.replica(2), 1))
    assert outcome.present_s / outcome.seconds == pytest.approx(192, rel=0.01)
    assert outcome.served / outcome.seconds == pytest.approx(2743)
    assert outcome.lost == pytest.approx(1 - 2743 / 5000, rel=0.01)


# The autoscalers


def asked(rules: Rules, ready: int, busy: float, most: int = 1000) -> int:
    scaler = Scaler(rules, 1, most, room=192)
    for second in range(1, 61):
        scaler.see(Seen(second, 1, busy * ready, 0))
    return scaler.want(60, ready, ready, outside=0)


def test_vertex_wants_what_googles_own_examples_say() -> None:
    assert asked(products.MACHINE_RULES, ready=2, busy=1.0) == 4
    assert asked(products.MACHINE_RULES, ready=10, busy=0.01) == 1
    assert asked(products.MACHINE_RULES, ready=2, busy=1.0, most=3) == 3


def test_gke_leaves_alone_what_is_within_a_tenth_of_the_target() -> None:
    rules = replace(products.MACHINE_RULES, tolerance=products.HPA_TOLERANCE)
    assert asked(rules, ready=10, busy=0.65) == 10
    assert asked(rules, ready=10, busy=0.67) == 12
    assert asked(products.MACHINE_RULES, ready=10, busy=0.65) == 11


def test_it_goes_down_to_the_most_it_wanted_within_five_minutes() -> None:
    scaler, wanted = Scaler(products.MACHINE_RULES, 1, 1000, room=192), []
    for second in range(15, 1200, 15):
        scaler.see(Seen(second, 15, 4.0 if second <= 300 else 0.6, 0))
        wanted.append((second, scaler.want(second, 7, 7, outside=0)))
    assert {count for second, count in wanted if 60 <= second <= 600} == {7}
    assert {count for second, count in wanted if second >= 660} == {1}


def test_while_new_ones_start_the_same_load_wants_no_more() -> None:
    scaler = Scaler(products.MACHINE_RULES, 1, 1000, room=192)
    for second in range(1, 61):
        scaler.see(Seen(second, 1, 1.0, 0))
    assert scaler.want(60, ready=1, paid=1, outside=0) == 2
    assert scaler.want(75, ready=1, paid=2, outside=0) == 2


def test_cloud_run_starts_at_once_what_those_who_wait_need() -> None:
    rules = replace(products.RUN_RULES, requests=9.6)
    scaler = Scaler(rules, 0, 100, room=16)
    assert scaler.want(1, ready=0, paid=0, outside=33) == 3
    assert scaler.want(2, ready=0, paid=3, outside=40) == 3
    assert scaler.want(3, ready=0, paid=3, outside=1e6) == 100


# All of it


def test_a_step_up_by_hand() -> None:
    # 50/s for ten minutes, then 150/s, on replicas of 100/s that take a minute to come and let nobody wait.
    tight = replace(TEN, limit=10)
    curve = Curve(300, (50, 50, 150, 150), "by hand")
    rules = Rules(every_s=15, target=0.6, see_s=0, mean_s=15, keep_s=300)
    outcome = simulate(curve, Setting(tight, rules, start_s=60, least=1))
    # It looks every 15 s. At 615 s it sees a full replica, 1 / 0.6 = 1.67: two, from 675 s on.
    assert outcome.refused == pytest.approx(50 * 75)
    # Then two are busy by 0.75, 1.5 / 0.6 = 2.5: three.
    assert outcome.most == 3
    assert outcome.served + outcome.refused == pytest.approx(outcome.came)


def test_a_version_that_gets_all_traffic_at_once_begins_with_what_is_kept_warm() -> None:
    setting = Setting(TEN, products.MACHINE_RULES, start_s=60, least=1)
    curve = curves.steady(240)
    assert simulate(curve, setting).refused == 0
    assert simulate(curve, replace(setting, cold=True)).refused > 100 * 60
    assert simulate(curve, replace(setting, cold=True, least=3)).refused == 0


def test_the_fewest_kept_warm_reach_the_goal_and_one_fewer_does_not() -> None:
    curve = curves.burst(peak=900, low=50)
    setting = Setting(TEN, products.MACHINE_RULES, start_s=180, least=1)
    found = fewest(curve, setting, 0.01)
    assert found
    assert found.least > 1
    assert found.lost + found.slow <= 0.01
    fewer = simulate(curve, replace(setting, least=found.least - 1))
    assert fewer.lost + fewer.slow > 0.01


def test_where_a_single_request_is_too_late_no_number_is_enough() -> None:
    setting = Setting(TEN, products.MACHINE_RULES, start_s=1, least=1, most=8, late_ms=50)
    assert fewest(curves.steady(90), setting, 0.001) is None


# Costs


def of(name: str, least: int = 1) -> Product:
    wish = Wish(least, most_instances=100, target=0.6, late_ms=250, cold=False)
    start = Start(60, 4)
    if name in (products.VERTEX, products.GKE):
        return products.machines(name, "", measured.QUOTED.replica(2), start, wish)
    return products.instances(
        name, products.RUN_INSTANCE, measured.QUOTED.replica(1, 16), start, wish
    )


def billed(name: str, curve: Curve, least: int = 1) -> tuple[Outcome, Bill]:
    product = of(name, least)
    outcome = simulate(curve, product.setting)
    return outcome, bill(outcome, product, SMALL)


def test_a_machine_a_month_is_730_hours_at_its_price() -> None:
    outcome, cost_ = billed(products.VERTEX, curves.steady(1))
    assert hours(outcome) == pytest.approx(730)
    assert cost_.usd == pytest.approx(730 * cost.table()["vertex"]["machines"]["e2-standard-2"])
    _, nodes = billed(products.GKE, curves.steady(1))
    machine = cost.table()["gke"]["machines"]["e2-standard-2"]
    # The cluster's 73 dollars are less than its credit; the door costs 0.025 an hour.
    assert nodes.usd == pytest.approx(730 * (machine + 0.025))


def test_cloud_run_by_requests_by_hand() -> None:
    # One a second, each billed as a tenth of a second: 1 - e^-0.1 of the time, a core and 2 GiB.
    _, cost_ = billed(products.RUN, curves.steady(1))
    seconds = 730 * 3600 * (1 - math.exp(-0.1))
    cores, gibs = (seconds - 180_000) * 0.000024, (2 * seconds - 360_000) * 0.0000025
    assert cost_.usd == pytest.approx(cores + gibs + (730 * 3600 - 2e6) / 1e6 * 0.40)
    assert cost_.how.startswith("billed by requests")


def test_cloud_run_that_is_always_busy_is_billed_by_instances() -> None:
    outcome, cost_ = billed(products.RUN, curves.steady(500))
    assert cost_.how.startswith("billed by instances")
    seconds = outcome.replica_s / outcome.seconds * 730 * 3600
    cores, gibs = (seconds - 240_000) * 0.000018, (2 * seconds - 450_000) * 0.000002
    assert cost_.usd == pytest.approx(cores + gibs)


@pytest.mark.parametrize("name", [products.VERTEX, products.GKE, products.RUN])
def test_more_traffic_never_costs_less(name: str) -> None:
    bills = [billed(name, curves.steady(rate))[1].usd for rate in (1, 10, 100, 1000, 3000, 9000)]
    assert bills == sorted(bills)
    assert bills[0] < bills[-1]


@pytest.mark.parametrize("name", [products.VERTEX, products.GKE])
def test_more_kept_warm_never_cost_less(name: str) -> None:
    bills = [billed(name, curves.burst(9000, 900), least)[1].usd for least in (1, 2, 3, 5)]
    assert bills == sorted(bills)
    assert bills[0] < bills[-1]


def test_what_has_no_price_is_said() -> None:
    product = of(products.VERTEX)
    outcome = simulate(curves.steady(1), product.setting)
    assert bill(outcome, product, Machine("z9-giga-4")).unknown == ("z9-giga-4",)


def test_every_table_of_prices_names_its_source_and_how_far_it_is_known() -> None:
    table = cost.table()
    assert re.fullmatch(r"\d{4}-\d\d", table["date"])
    for name in ("vertex", "gke", "run"):
        assert table[name]["source"].startswith("https://cloud.google.com/")
        assert table[name]["known"]


def test_vertex_and_compute_engine_have_a_price_for_the_same_machines_15_percent_apart() -> None:
    vertex, gke = cost.table()["vertex"], cost.table()["gke"]
    for kind in ("machines", "accelerators"):
        assert set(vertex[kind]) == set(gke[kind])
        for name, price in gke[kind].items():
            assert vertex[kind][name] == pytest.approx(1.15 * price, rel=0.01), name


# The command


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    main(["estimate", *words])
    return capsys.readouterr().out


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Go where there is no deploy.toml, no project, and nobody was before."""
    for name in ("DEPLOY_PROJECT", "GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_needs_no_project_no_credentials_and_nothing_of_google(nowhere: Path) -> None:
    program = (
        "import sys; from deploy.__main__ import main; main(['estimate']); "
        "sys.exit(sum(name.split('.')[0] in ('google', 'torch', 'requests') for name in sys.modules))"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); {program}",
        ],
        cwd=nowhere,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Vertex AI" in done.stdout
    assert not list(nowhere.iterdir())


@pytest.mark.usefixtures("nowhere")
def test_it_says_what_to_write_into_deploy_toml(capsys: pytest.CaptureFixture[str]) -> None:
    said = told(capsys, "--traffic", "burst", "--peak", "20000", "--low", "500")
    assert re.search(r"Vertex AI: a new one answers after [\d.]+ minutes\. .+: too slow\.", said)
    advice = said.partition("\nVertex AI: a new one")[2].partition("\nGKE: ")[0]
    keep = re.search(r"Keep (\d+) warm: min_replicas = (\d+), max_replicas = (\d+)", advice)
    assert keep
    assert keep[1] == keep[2]
    assert int(keep[2]) > 1
    again = told(
        capsys,
        "--traffic",
        "burst",
        "--peak",
        "20000",
        "--low",
        "500",
        "--min-replicas",
        keep[2],
        "--max-replicas",
        keep[3],
    )
    assert f"min_replicas = {keep[2]}, max_replicas = {keep[3]} is enough" in again


@pytest.mark.usefixtures("nowhere")
def test_a_curve_that_was_written_is_read_again(
    capsys: pytest.CaptureFixture[str], nowhere: Path
) -> None:
    first = told(capsys, "--traffic", "wave", "--save-curve", "wave.csv")
    second = told(capsys, "--curve", "wave.csv")
    assert [line for line in first.splitlines() if "generated" not in line] == [
        line for line in second.splitlines() if "wave.csv" not in line
    ]
    assert "288 steps of 300 s" in second
    assert (nowhere / "wave.csv").exists()
    doubled = told(capsys, "--curve", "wave.csv", "--times", "2")
    assert "10,000/s at most" in doubled


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--low 10 --peak 5", "--low 10 is above --peak 5"),
        (
            "--per-second 5 --per-replica 9",
            "--per-second and --per-replica say the same thing twice",
        ),
        ("--p99-ms 5", "--p99-ms alone says nothing"),
        ("--curve nowhere.csv", "nowhere.csv cannot be read"),
        ("--measured nowhere.json", "nowhere.json cannot be read"),
        ("--machine-type m3-mega", "does not say how many cores"),
        (
            "--accelerator-type NVIDIA_TESLA_T4 --accelerator-count 1 --machine-type n1-standard-4",
            "what a core answers says nothing of a machine with NVIDIA_TESLA_T4",
        ),
        ("--min-replicas 0", "min_replicas = 0 is not between 1 and 1000"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_way_out(
    capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["estimate", *words.split()])
    assert end.value.code == 1
    what, do = capsys.readouterr().err.strip().splitlines()
    assert said in what
    assert do.strip()


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    "words", ["--peak 0", "--peak -1", "--goal 100%", "--late-ms soon", "--max-instances 0"]
)
def test_a_number_that_is_none_is_a_misuse(capsys: pytest.CaptureFixture[str], words: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(["estimate", *words.split()])
    assert end.value.code == 2
    assert words.split()[1] in capsys.readouterr().err


@pytest.mark.usefixtures("nowhere")
def test_with_an_accelerator_only_those_that_have_it_are_estimated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = told(
        capsys,
        "--machine-type",
        "n1-standard-4",
        "--accelerator-type",
        "NVIDIA_TESLA_T4",
        "--accelerator-count",
        "1",
        "--per-replica",
        "3000",
        "--traffic",
        "steady",
        "--peak",
        "1000",
    )
    price = cost.table()["vertex"]
    usd = 730 * (price["machines"]["n1-standard-4"] + price["accelerators"]["NVIDIA_TESLA_T4"])
    assert f"{usd:,.0f}\n" in said
    assert "3,000/s at most" in said
    assert "Cloud Run" not in said


@pytest.mark.usefixtures("nowhere")
def test_a_plot_without_matplotlib_says_where_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit):
        main(["estimate", "--plot", "it.png"])
    assert "build/bench/venv/bin/python" in capsys.readouterr().err


def test_a_curve_is_drawn_by_the_most_of_each_part() -> None:
    drawn = report.sparkline(Curve(1, (0, 50, 100, *[0] * 93), "by hand"))
    assert drawn == "▅█" + "▁" * 46
    assert report.sparkline(Curve(1, (1, 2), "by hand")) == "▅" * 24 + "█" * 24


# The page


def test_every_command_of_the_page_prints_what_it_shows() -> None:
    env = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("MAKE", "MFLAGS", "DEPLOY_"))
    }
    ran = 0
    for each in shown(PAGE):
        if each.command.startswith("make estimate"):
            held_against(each, each.command, env, ROOT)
            ran += 1
    assert ran >= 3


def table_of(name: str) -> list[list[str]]:
    found = re.search(rf"<!-- {name} -->\n(.+?)<!-- end -->", PAGE.read_text(), re.DOTALL)
    assert found
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in found[1].splitlines()
        if line.startswith("|") and "---" not in line
    ]


@pytest.mark.parametrize("row", table_of("waves")[1:], ids=lambda row: f"{row[0]}/s")
def test_the_pages_table_of_waves_is_what_the_command_says(
    capsys: pytest.CaptureFixture[str], row: list[str]
) -> None:
    said = told(capsys, "--traffic", "wave", "--peak", row[0].replace(",", ""))
    lines = [line for line in said.splitlines() if re.match("(Vertex AI|GKE|Cloud [RF]).+%", line)]
    assert [line.split()[-1] for line in lines] == row[1:]


def test_how_busy_it_is_taken_to_be_is_what_the_page_says_was_measured() -> None:
    head, row, _ = table_of("busy")
    measured_ = [
        (float(share.rstrip("%")) / 100, float(took.rstrip("%")) / 100)
        for share, took in zip(head[1:], row[1:], strict=True)
    ]
    assert measured.QUOTED.busy == ((0, 0), *measured_, (1, 1))


def test_the_calculators_burst_refuses_what_is_too_much_and_nothing_before() -> None:
    before, during, after = burst.calculated(measured.QUOTED.replica(2))
    assert (before.refused, after.refused) == (0, 0)
    assert during.answered == pytest.approx(2743)
    assert during.refused == pytest.approx(2 * 2743, rel=0.01)
    assert during.ms == pytest.approx(192 / 2743 * 1000, rel=0.01)


def test_each_number_that_is_taken_for_granted_is_on_the_page() -> None:
    text = PAGE.read_text()
    for seconds in (
        products.VERTEX_PROVISION_S,
        products.GKE_PROVISION_S,
        products.RUN_PROVISION_S,
    ):
        assert f"| {seconds:g} s, guessed |" in text
