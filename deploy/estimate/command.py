"""python -m deploy estimate: from its options to the report. It asks nobody and changes nothing."""

import argparse
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from deploy.errors import Stop
from deploy.estimate import curve as curves
from deploy.estimate import measured as measurements
from deploy.estimate import plot, products
from deploy.estimate.bill import bill, hours
from deploy.estimate.curve import Curve
from deploy.estimate.measured import Measured
from deploy.estimate.products import Product, Start, Wish
from deploy.estimate.report import Choice, Row, lines
from deploy.estimate.simulate import Outcome, fewest, simulate
from deploy.plan import Machine
from deploy.settings import Settings

VCPUS = {"a2-highgpu-1g": 12}
"""Of machine types whose name does not end in it."""


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    traffic = parser.add_argument_group("traffic")
    traffic.add_argument(
        "--traffic",
        choices=("steady", "wave", "burst"),
        default="wave",
        help="generated (default: wave)",
    )
    traffic.add_argument(
        "--peak",
        type=_above_0,
        default=5000,
        metavar="N",
        help="requests a second at most (default: 5000)",
    )
    traffic.add_argument("--low", type=_above_0, metavar="N", help="at least (default: a tenth)")
    traffic.add_argument(
        "--curve",
        type=Path,
        metavar="FILE",
        help="recorded: CSV of time,requests, or Cloud Monitoring's answer",
    )
    traffic.add_argument(
        "--times", type=_above_0, default=1, metavar="N", help="so many times the requests of it"
    )
    traffic.add_argument(
        "--save-curve", type=Path, metavar="FILE", help="write the curve as --curve reads it"
    )
    known = parser.add_argument_group("what was measured")
    known.add_argument(
        "--measured",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="build/bench/growth-*.json, run-*.json, burst-*.json; several times: together",
    )
    known.add_argument("--workload", default="SMALL", help="of a run-*.json (default: SMALL)")
    known.add_argument(
        "--per-second",
        type=_above_0,
        metavar="N",
        help="requests a second and core, in place of a file",
    )
    known.add_argument(
        "--per-replica",
        type=_above_0,
        metavar="N",
        help="of a whole replica, as with an accelerator",
    )
    known.add_argument(
        "--p99-ms", type=_above_0, metavar="MS", help="under that load (default: 20)"
    )
    known.add_argument(
        "--start-s",
        type=_above_0,
        metavar="S",
        default=measurements.QUOTED_START_S,
        help="of the container, from its start to its first answer (default: %(default)s, README.md)",
    )
    known.add_argument(
        "--function-ms",
        type=_above_0,
        metavar="MS",
        help=f"an answer of the function (default: {measurements.QUOTED_FUNCTION_MS}, docs/functions.md; "
        "with --per-second as long as that says)",
    )
    known.add_argument(
        "--function-start-s",
        type=_above_0,
        metavar="S",
        default=measurements.QUOTED_FUNCTION_START_S,
        help="of the function (default: %(default)s, docs/functions.md)",
    )
    guessed = parser.add_argument_group(
        "what nobody has measured here: a machine, and the image's way to it"
    )
    for name, default, text in (
        ("vertex", products.VERTEX_PROVISION_S, "of Vertex AI"),
        ("gke", products.GKE_PROVISION_S, "a node of GKE; 0 where one is free"),
        ("run", products.RUN_PROVISION_S, "an instance of Cloud Run or Cloud Functions"),
    ):
        guessed.add_argument(
            f"--{name}-provision-s",
            type=_from_0,
            default=default,
            metavar="S",
            help=f"{text} (default: {default:g}, a guess)",
        )
    goal = parser.add_argument_group("what is wanted")
    goal.add_argument(
        "--late-ms",
        type=_above_0,
        default=250,
        metavar="MS",
        help="an answer is late beyond it (default: 250)",
    )
    goal.add_argument(
        "--goal",
        type=_share,
        default=0.001,
        metavar="PERCENT",
        help="refused or late at most (default: 0.1%%)",
    )
    goal.add_argument(
        "--max-instances",
        type=_whole,
        default=products.RUN_MOST,
        metavar="N",
        help="of Cloud Run and Cloud Functions (default: %(default)s, Cloud Run's own)",
    )
    goal.add_argument(
        "--promoted",
        action="store_true",
        help="begin with what is kept warm, as a new version that gets all traffic at once",
    )
    goal.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it (needs matplotlib)")


def run(args: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> None:
    """Print the report; raise Stop."""
    if args.plot:
        plot.needed()
    curve = _curve(args)
    if args.save_curve:
        curves.write(curve, args.save_curve)
    machine = settings.machine
    measured = _measured(args, machine)
    choices = [
        _choose(each, curve, machine, args.goal) for each in _products(args, settings, measured)
    ]
    for line in lines(curve, measured, choices, args.goal):
        say(line)
    if machine.accelerators:
        say(f"With {machine.accelerator} only Vertex AI and GKE are estimated.")
    if args.plot:
        rows = [each.enough or each.asked for each in choices]
        plot.draw(
            {
                f"{row.product.name}, {row.outcome.least} warm": simulate(
                    curve, replace(row.product.setting, least=row.outcome.least), record=True
                )
                for row in rows
            },
            args.plot,
        )
        say(str(args.plot))


def _choose(product: Product, curve: Curve, machine: Machine, goal: float) -> Choice:
    asked = simulate(curve, product.setting)
    enough = asked if asked.lost + asked.slow <= goal else fewest(curve, product.setting, goal)
    return Choice(
        _row(product, asked, curve, machine),
        _row(product, enough, curve, machine) if enough else None,
    )


def _row(product: Product, outcome: Outcome, curve: Curve, machine: Machine) -> Row:
    """Put a price to an outcome: a month of the curve as it goes on, whatever its begin was."""
    lasting = outcome
    if product.setting.cold:
        lasting = simulate(curve, replace(product.setting, least=outcome.least, cold=False))
    return Row(product, outcome, hours(lasting), bill(lasting, product, machine))


def _curve(args: argparse.Namespace) -> Curve:
    if args.curve:
        found = curves.read(args.curve)
    else:
        low = args.low or args.peak / 10
        if low > args.peak:
            raise Stop(
                f"--low {low:g} is above --peak {args.peak:g}", "the peak is what comes at most"
            )
        found = {
            "steady": lambda: curves.steady(args.peak),
            "wave": lambda: curves.wave(args.peak, low),
            "burst": lambda: curves.burst(args.peak, low),
        }[args.traffic]()
    return found if args.times == 1 else found.times(args.times)


def _measured(args: argparse.Namespace, machine: Machine) -> Measured:
    told = [name for name in ("measured", "per_second", "per_replica") if getattr(args, name)]
    if len(told) > 1:
        words = " and ".join(f"--{name.replace('_', '-')}" for name in told)
        raise Stop(f"{words} say the same thing twice", "give one of them")
    if machine.accelerators and not args.per_replica:
        raise Stop(
            f"what a core answers says nothing of a machine with {machine.accelerator}",
            "measure it there, and give --per-replica and --p99-ms",
        )
    if args.measured:
        return measurements.read(args.measured, args.workload)
    p99_ms = args.p99_ms or 20
    if args.per_replica:
        return measurements.given(args.per_replica / _vcpus(machine), p99_ms)
    if args.per_second:
        return measurements.given(args.per_second, p99_ms)
    if args.p99_ms:
        raise Stop("--p99-ms alone says nothing", "give --per-second, or --per-replica, with it")
    return measurements.QUOTED


def _products(args: argparse.Namespace, settings: Settings, measured: Measured) -> list[Product]:
    machine = settings.machine
    replica = measured.replica(_vcpus(machine))
    on = settings.machine_type
    if machine.accelerators:
        on += f" + {machine.accelerators} {machine.accelerator}"
    wish = Wish(
        settings.min_replicas,
        args.max_instances,
        settings.cpu_percent / 100,
        args.late_ms,
        args.promoted,
    )
    vertex, gke = (
        Start(seconds, args.start_s) for seconds in (args.vertex_provision_s, args.gke_provision_s)
    )
    found = [
        products.machines(products.VERTEX, on, replica, vertex, wish),
        products.machines(products.GKE, on, replica, gke, wish),
    ]
    if machine.accelerators:
        return found
    run, function = products.RUN_INSTANCE, products.FUNCTION_INSTANCE
    image = measured.replica(run.vcpus, run.concurrency)
    alone = measured.alone(1000 / _function_ms(args, measured))
    code = alone.replica(function.vcpus, function.concurrency)
    starts = [
        Start(args.run_provision_s, seconds) for seconds in (args.start_s, args.function_start_s)
    ]
    return [
        *found,
        products.instances(products.RUN, run, image, starts[0], wish),
        products.instances(products.FUNCTIONS, function, code, starts[1], wish),
    ]


def _function_ms(args: argparse.Namespace, measured: Measured) -> float:
    """Return what a function takes for an answer: it makes no batches, so as much as one alone."""
    if args.function_ms:
        return float(args.function_ms)
    if measured is measurements.QUOTED:
        return measurements.QUOTED_FUNCTION_MS
    first = measured.points[0]
    alone = first.in_flight <= 1
    return 1000 / (first.per_second if alone else first.per_second / measured.cores)


def _vcpus(machine: Machine) -> int:
    """Return a machine's vCPUs, of which its name tells; raise Stop."""
    match = re.search(r"-(\d+)$", machine.type)
    found = VCPUS.get(machine.type) or (int(match[1]) if match else 0)
    if not found:
        raise Stop(
            f"the name {machine.type} does not say how many cores it has",
            "name one that ends in it, such as e2-standard-4",
        )
    return found


def _above_0(text: str) -> float:
    value = _number(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _from_0(text: str) -> float:
    value = _number(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not 0 or a number above it")
    return value


def _whole(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,5}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _share(text: str) -> float:
    value = _number(text.removesuffix("%")) / 100
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0% and 100%")
    return value


def _number(text: str) -> float:
    return float(text) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else -1.0
