"""Compare a model's archive with the serving model on the instances of held-out.json.

Both models get requests as from a client. The serving model is behind a URL, in an archive, on the endpoint of the
model, or missing. The score of a prediction is that of the function score(prediction, truth) in score.py of the
model's folder, from 0 to 1; without that file it is 1 if the prediction, or its label, equals the truth. A model
without held-out.json is not evaluated.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from pipeline import report
from pipeline.errors import EvaluationError
from pipeline.options import replace_old_names
from pipeline.predictors import (
    Predict,
    Request,
    archive_predictor,
    endpoint_predictor,
    score,
    url_predictor,
)
from pipeline.report import Comparison
from project import cli
from project.environment import find_python
from project.model_folder import BUILD, add_model_option, find_model

MAX_REQUEST_BYTES, MAX_INSTANCES = 1_000_000, 64
"""Limits of one request. A shared endpoint of Vertex AI accepts 1.5 MB."""


def main() -> None:
    """Evaluate, and write and print the report; the exit code is 0 whether or not the candidate passes."""
    args = build_parser().parse_args(replace_old_names(sys.argv[1:]))
    report_file = f"{args.out}/report.html"
    cli.run(
        "pipeline.evaluate", lambda: print(f"{_evaluate(args)}\n{report_file}"), EvaluationError
    )


def _evaluate(args: argparse.Namespace) -> str:
    """Write the report, and return its text; raise EvaluationError."""
    model = find_model(args.model)
    if not model.held_out.is_file():
        message = f"{model.name} has no held-out.json: the candidate is not evaluated"
        report.write_skipped(args.out, message)
        return message
    rows = read_held_out(model.held_out, args.eval_instances)
    # The environment does not depend on where the candidate was built.
    python = find_python(dataclasses.replace(model, output=BUILD))
    predictors = {
        "candidate": archive_predictor(model.archive, python),
        "serving": _select_predictor(args, python),
    }
    requests = build_requests(rows)
    predictions = {name: predict(requests) for name, predict in predictors.items() if predict}
    truths = [row["truth"] for row in rows]
    program = model.path / "score.py"
    scores = {name: score(program, python, each, truths) for name, each in predictions.items()}
    comparison = Comparison(rows, predictions, scores)
    passed, message = check_score(
        comparison.mean("candidate"),
        comparison.mean("serving") if "serving" in scores else None,
        tolerance=args.tolerance,
        min_score=args.min_score,
    )
    report.write_files(args.out, comparison, passed=passed, message=message)
    return f"{comparison.format_table()}\n\n{message}"


def read_held_out(file: Path, limit: int = 0) -> list[dict[str, Any]]:
    """Return the rows of held-out.json, spread over the file if there are more than `limit`; raise EvaluationError."""
    expected = f'{file}: expected [{{"instance": …, "truth": …, "parameters"?, "variant"?}}, …]'
    try:
        rows = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{expected}; {error}") from None
    if not isinstance(rows, list) or not rows:
        raise EvaluationError(f"{expected}; it has no instances")
    for index, row in enumerate(rows):
        if not isinstance(row, dict) or not {"instance", "truth"} <= row.keys():
            raise EvaluationError(f"{expected}; item {index} has no instance or no truth")
    return rows[:: -(-len(rows) // limit)] if 0 < limit < len(rows) else rows


def build_requests(rows: list[dict[str, Any]]) -> list[Request]:
    """Return the bodies of requests for the instances, in order; the instances of one have the same parameters."""
    requests: list[Request] = []
    size = 0
    for row in rows:
        instance, parameters = row["instance"], row.get("parameters", {})
        added = len(json.dumps(instance))
        size += added
        if (
            not requests
            or requests[-1]["parameters"] != parameters
            or len(requests[-1]["instances"]) == MAX_INSTANCES
            or size > MAX_REQUEST_BYTES
        ):
            requests.append({"instances": [], "parameters": parameters})
            size = added
        requests[-1]["instances"].append(instance)
    return requests


def check_score(
    candidate: float, serving: float | None, *, tolerance: float, min_score: float
) -> tuple[bool, str]:
    """Return whether the candidate passes, and a sentence that says why; each number is a mean score.

    It passes if its score is at least `min_score` and at most `tolerance` below the serving model's.
    """
    score = f"the candidate's held-out score is {candidate:.3f}"
    if candidate < min_score:
        return False, f"{score}, below the minimum of {min_score:.3f}"
    if serving is None:
        return True, f"{score}; no model is serving yet"
    compared = f"{score}, the serving model's is {serving:.3f}"
    if candidate < serving - tolerance:
        return False, f"{compared}: the difference exceeds the tolerance of {tolerance:.3f}"
    return True, f"{compared}, within the tolerance of {tolerance:.3f}"


def _select_predictor(args: argparse.Namespace, python: Path) -> Predict | None:
    if args.serving == "none":
        return None
    if args.serving == "endpoint":
        return endpoint_predictor(vars(args))
    if args.serving.startswith(("http://", "https://")):
        return url_predictor(args.serving)
    return archive_predictor(Path(args.serving), python)


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected 0 to 1; got {text}")
    return value


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_model_option(parser)
    text = "the report's folder (default: %(default)s)"
    add("--out", type=Path, default="build/evaluation", metavar="FOLDER", help=text)
    text = "the serving model: a URL, an archive of this project, `endpoint` (of the model) or `none` (default: none)"
    add("--serving", default="none", metavar="MODEL", help=text)
    text = "maximum loss of score against the serving model, from 0 to 1 (default: %(default)s)"
    add("--tolerance", type=_share, default=0.01, metavar="SCORE", help=text)
    text = "minimum score, from 0 to 1 (default: %(default)s)"
    add("--min-score", type=_share, default=0.0, metavar="SCORE", help=text)
    text = "approximate number of held-out instances to use (default: 0, all)"
    add("--eval-instances", type=int, default=0, metavar="N", help=text)
    add("--project", help="project of the endpoint")
    add("--region", help="region of the endpoint")
    return parser


if __name__ == "__main__":
    main()
