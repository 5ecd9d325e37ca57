"""Compare a candidate with the serving model on the held-out pictures.

Both models get requests as from a client and return labels. The serving model is behind a URL, in an archive,
on the endpoint of deploy.toml, or missing.
"""

import argparse
import sys
from pathlib import Path

from train.data import DataError, load_data
from train.evaluation import Sample

from pipeline import report
from pipeline.errors import PredictionError
from pipeline.held_out import draw_held_out
from pipeline.options import replace_old_names
from pipeline.predictors import (
    Predict,
    Request,
    archive_predictor,
    endpoint_predictor,
    folder_predictor,
    url_predictor,
)
from pipeline.report import Comparison

MAX_REQUEST_BYTES, MAX_INSTANCES = 1_000_000, 64
"""Limits of one request. A shared endpoint of Vertex AI accepts 1.5 MB."""


def main() -> None:
    """Evaluate, and write and print the report; the exit code is 0 whether or not the candidate passes."""
    args = build_parser().parse_args(replace_old_names(sys.argv[1:]))
    try:
        data = load_data(args.data)
        samples = draw_held_out(data, args.eval_pictures)
        candidate = predict_labels(folder_predictor(args.model), samples)
        predict = _select_predictor(args)
        serving = predict_labels(predict, samples) if predict else None
    except (DataError, PredictionError) as error:
        sys.exit(f"pipeline.evaluate: {error}")
    labels = data.labels
    comparison = Comparison(labels=labels, samples=samples, candidate=candidate, serving=serving)
    passed, message = check_accuracy(
        comparison.accuracy(candidate),
        comparison.accuracy(serving) if serving else None,
        tolerance=args.tolerance,
        min_accuracy=args.min_accuracy,
    )
    report.write_files(args.out, comparison, passed=passed, message=message)
    print(f"{report.format_table(comparison)}\n\n{message}\n{args.out}/report.html")


def check_accuracy(
    candidate: float, serving: float | None, *, tolerance: float, min_accuracy: float
) -> tuple[bool, str]:
    """Return whether the candidate passes, and a sentence that says why; each number is a share of all pictures.

    It passes if its accuracy is at least `min_accuracy` and at most `tolerance` below the serving model's.
    """
    accuracy = f"the candidate's held-out accuracy is {candidate:.1%}"
    if candidate < min_accuracy:
        return False, f"{accuracy}, below the minimum of {min_accuracy:.1%}"
    if serving is None:
        return True, f"{accuracy}; no model is serving yet"
    compared = f"{accuracy}, the serving model's is {serving:.1%}"
    if candidate < serving - tolerance:
        return False, f"{compared}: the difference exceeds the tolerance of {tolerance:.1%}"
    return True, f"{compared}, within the tolerance of {tolerance:.1%}"


def predict_labels(predict: Predict, samples: list[Sample]) -> list[str]:
    """Return the label that a model predicts for each picture; raise PredictionError."""
    requests: list[Request] = [[]]
    for each in samples:
        picture, last = each.base64, requests[-1]
        size = sum(map(len, last)) + len(picture)
        is_full = len(last) == MAX_INSTANCES or size > MAX_REQUEST_BYTES
        if last and is_full:
            requests.append([])
        requests[-1].append(picture)
    return predict(requests)


def _select_predictor(args: argparse.Namespace) -> Predict | None:
    if args.serving == "none":
        return None
    if args.serving == "endpoint":
        return endpoint_predictor(vars(args))
    if args.serving.startswith(("http://", "https://")):
        return url_predictor(args.serving)
    return archive_predictor(Path(args.serving))


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text}")
    return value


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    description = str(__doc__).partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m pipeline.evaluate", description=description)
    add = parser.add_argument
    text = "the candidate's folder (default: %(default)s)"
    add("--model", type=Path, default="build/model", metavar="FOLDER", help=text)
    text = "the report's folder (default: %(default)s)"
    add("--out", type=Path, default="build/evaluation", metavar="FOLDER", help=text)
    text = "the serving model: a URL, an archive of this project, `endpoint` (of deploy.toml) or `none` (default: none)"
    add("--serving", default="none", metavar="MODEL", help=text)
    add("--data", type=Path, metavar="FOLDER", help="as for model.train: a folder per class")
    text = "maximum loss of accuracy against the serving model, from 0 to 1 (default: %(default)s)"
    add("--tolerance", type=_share, default=0.01, metavar="SHARE", help=text)
    text = "minimum accuracy, from 0 to 1 (default: %(default)s)"
    add("--min-accuracy", type=_share, default=0.9, metavar="SHARE", help=text)
    text = "approximate number of held-out pictures to use (default: 0, all)"
    add("--eval-pictures", type=int, default=0, metavar="N", help=text)
    add("--project", help="project of the endpoint")
    add("--region", help="region of the endpoint")
    return parser


if __name__ == "__main__":
    main()
