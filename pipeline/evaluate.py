"""Compare a candidate with the model that serves now, on the held-out set.

Both are asked as clients ask: requests in, labels out. What serves is an endpoint's URL, an archive, the
endpoint of deploy.toml, or nothing yet.
"""

import argparse
import sys
from pathlib import Path

from model.train.data import DataError, load
from model.train.evaluate import Shown
from pipeline import report
from pipeline.held_out import held_out
from pipeline.predictors import (
    Ask,
    PredictionError,
    Request,
    of_archive,
    of_endpoint,
    of_folder,
    of_url,
)
from pipeline.report import Compared

MOST_BYTES, MOST_INSTANCES = 1_000_000, 64
"""Of a request. A shared endpoint of Vertex AI takes 1.5 MB."""


def main() -> None:
    """Run the command line; the exit code is 0 whoever is better: the report says which."""
    args = parser().parse_args()
    try:
        data = load(args.data)
        shown = held_out(data, args.examined)
        candidate = answers(of_folder(args.model), shown)
        ask = _serving(args)
        serving = answers(ask, shown) if ask else None
    except (DataError, PredictionError) as error:
        sys.exit(f"pipeline.evaluate: {error}")
    compared = Compared(data.labels, shown, candidate, serving)
    passes, message = judge(
        compared.accuracy(candidate),
        compared.accuracy(serving) if serving else None,
        args.tolerance,
        args.least,
    )
    report.write(args.out, compared, passes, message)
    print(f"{report.table(compared)}\n\n{message}\n{args.out}/report.html")


def judge(
    candidate: float, serving: float | None, tolerance: float, least: float
) -> tuple[bool, str]:
    """Return whether a candidate may go on, and why, in one sentence; each number is a share of all pictures.

    Its accuracy must be `least` at least, and no more than `tolerance` below that of what serves.
    """
    read = f"the candidate reads {candidate:.1%} of the held-out pictures right"
    if candidate < least:
        return False, f"{read}, less than the {least:.1%} that it must"
    if serving is None:
        return True, f"{read}; nothing serves yet"
    beside = f"{read}, what serves now {serving:.1%}"
    if candidate < serving - tolerance:
        return False, f"{beside}: worse by more than the {tolerance:.1%} that is tolerated"
    return True, f"{beside}; {tolerance:.1%} less would be tolerated"


def answers(ask: Ask, shown: list[Shown]) -> list[str]:
    """Return the label that a model gives each picture; raise NoAnswer."""
    requests: list[Request] = [[]]
    for each in shown:
        picture, last = each.base64, requests[-1]
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
    description = str(__doc__).partition("\n")[0]
    made = argparse.ArgumentParser(prog="python -m pipeline.evaluate", description=description)
    add = made.add_argument
    add("--model", type=Path, default="build/model", help="(%(default)s)")
    add("--out", type=Path, default="build/evaluation", help="(%(default)s)")
    what = "a URL that predicts, an archive of this project, `endpoint` (that of deploy.toml) or `none`"
    add("--serving", default="none", metavar="WHAT", help=what)
    add("--data", type=Path, metavar="FOLDER", help="as of model.train")
    add("--tolerance", type=_share, default=0.01, help="(%(default)s)")
    add("--least", type=_share, default=0.9, help="(%(default)s)")
    add("--examined", type=int, default=0, metavar="N", help="with about so many pictures (0: all)")
    add("--project", help="of the endpoint")
    add("--region", help="of the endpoint")
    return made


if __name__ == "__main__":
    main()
