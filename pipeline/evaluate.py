"""Compare a candidate with the model that serves now, on the held-out set.

Both are asked as clients ask: requests in, labels out. What serves is an endpoint's URL, an archive, the
endpoint of deploy.toml, or nothing yet.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from model.train import data as sources
from model.train.data import BadData, Data
from model.train.evaluate import REPEATS, VARIANTS, redraw
from model.train.write import as_instance
from pipeline import report
from pipeline.asked import Ask, NoAnswer, Request, of_archive, of_endpoint, of_folder, of_url
from pipeline.report import Compared, Shown

MOST_BYTES, MOST_INSTANCES = 1_000_000, 64
"""Of a request. A shared endpoint of Vertex AI takes 1.5 MB."""
SEED = 1
"""Not that of the training's own examination: other pictures, of the same writers."""


@dataclass(frozen=True)
class Rule:
    """When a candidate may go on."""

    tolerance: float
    """By how much its accuracy, a share of all pictures, may be less than that of what serves."""
    least: float
    """What its accuracy must be at least, whatever serves."""

    def judge(self, candidate: float, serving: float | None) -> tuple[bool, str]:
        """Return whether it may, and why, in one sentence."""
        read = f"the candidate reads {candidate:.1%} of the held-out pictures right"
        if candidate < self.least:
            return False, f"{read}, less than the {self.least:.1%} that it must"
        if serving is None:
            return True, f"{read}; nothing serves yet"
        beside = f"{read}, what serves now {serving:.1%}"
        if candidate < serving - self.tolerance:
            return False, f"{beside}: worse by more than the {self.tolerance:.1%} that is tolerated"
        return True, f"{beside}; {self.tolerance:.1%} less would be tolerated"


def main() -> None:
    """Run the command line; the exit code is 0 whoever is better: the report says which."""
    args = parser().parse_args()
    try:
        data = sources.folder(args.data) if args.data else sources.digits()
        shown = held_out(data, args.examined)
        candidate = answers(of_folder(args.model), shown)
        ask = _serving(args)
        serving = answers(ask, shown) if ask else None
    except (BadData, NoAnswer) as error:
        sys.exit(f"pipeline.evaluate: {error}")
    compared = Compared(data.labels, shown, candidate, serving)
    passes, message = Rule(args.tolerance, args.least).judge(
        compared.accuracy(candidate), compared.accuracy(serving) if serving else None
    )
    report.write(args.out, compared, passes, message)
    print(f"{report.table(compared)}\n\n{message}\n{args.out}/report.html")


def held_out(data: Data, most: int = 0) -> list[Shown]:
    """Return the held-out pictures, each in all the ways of the examination; about `most`, if that is not 0."""
    drawn = len(data.held_out) * (1 + REPEATS * (len(VARIANTS) - 1))
    some = data.held_out[:: -(-drawn // most) if most else 1]
    return [
        Shown(way, each.picture, data.labels[each.target])
        for way in VARIANTS
        for each in redraw(way, some, SEED)
    ]


def answers(ask: Ask, shown: list[Shown]) -> list[str]:
    """Return the label that a model gives each picture; raise NoAnswer."""
    requests: list[Request] = [[]]
    for each in shown:
        picture = as_instance(each.picture)["b64"]
        last = requests[-1]
        full = len(last) == MOST_INSTANCES or sum(map(len, last)) + len(picture) > MOST_BYTES
        if last and full:
            requests.append([])
        requests[-1].append(picture)
    return ask(requests)


def _serving(args: argparse.Namespace) -> Ask | None:
    if args.serving == "none":
        return None
    if args.serving == "endpoint":
        return of_endpoint(vars(args))
    if args.serving.startswith(("http://", "https://")):
        return of_url(args.serving)
    return of_archive(Path(args.serving))


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share: 0.01 is one point of a hundred")
    return value


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    made = argparse.ArgumentParser(
        prog="python -m pipeline.evaluate", description=__doc__.splitlines()[0]
    )
    made.add_argument("--model", type=Path, default="build/model", help="(%(default)s)")
    made.add_argument("--out", type=Path, default="build/evaluation", help="(%(default)s)")
    made.add_argument(
        "--serving",
        default="none",
        metavar="WHAT",
        help="a URL that predicts, an archive of this project, `endpoint` (that of deploy.toml) or `none`",
    )
    made.add_argument("--data", type=Path, metavar="FOLDER", help="as of model.train")
    made.add_argument("--tolerance", type=_share, default=0.01, help="(%(default)s)")
    made.add_argument("--least", type=_share, default=0.9, help="(%(default)s)")
    made.add_argument(
        "--examined", type=int, default=0, metavar="N", help="with about so many pictures (0: all)"
    )
    made.add_argument("--project", help="of the endpoint")
    made.add_argument("--region", help="of the endpoint")
    return made


if __name__ == "__main__":
    main()
