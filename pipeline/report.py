"""The report of an evaluation: scores as JSON, and an HTML page with the instances that got worse."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.predictors import get_label

ALL = "all instances"
MAX_LABELS = 50
"""The largest number of labels for which there is a confusion matrix."""
MAX_SHOWN, MAX_CHARS = 60, 200
"""How many instances the page shows, and how much of each."""
PAGE = """<!doctype html><meta charset="utf-8"><title>Evaluation</title>
<style>body {{font-family: sans-serif; max-width: 60rem}} td {{padding: .2rem .6rem; overflow-wrap: anywhere}}
img {{max-height: 6rem; min-height: 3rem}}</style>
<h1>{message}</h1>
{content}
"""


@dataclass(frozen=True)
class Comparison:
    """The predictions of two models, candidate and serving, for the same instances."""

    rows: list[dict[str, Any]]
    """The rows of held-out.json."""
    predictions: Mapping[str, list[Any]]
    """Those of "candidate", and of "serving" if there is one."""
    scores: Mapping[str, list[float]]
    """Likewise, a score from 0 to 1 for each instance."""

    def mean(self, model: str) -> float:
        """Return a model's mean score."""
        return fmean(self.scores[model])

    def compare_by_variant(self) -> Iterator[tuple[str, dict[str, float]]]:
        """Yield (variant, each model's mean score), the total last."""
        variants = dict.fromkeys(str(row["variant"]) for row in self.rows if "variant" in row)
        for variant in variants:
            chosen = [str(row.get("variant")) == variant for row in self.rows]
            yield (
                variant,
                {
                    model: fmean(score for score, is_in in zip(each, chosen, strict=True) if is_in)
                    for model, each in self.scores.items()
                },
            )
        yield ALL, {model: self.mean(model) for model in self.scores}

    def find_worse(self) -> list[int]:
        """Return the indices of instances with a lower score than by the serving model, the greatest loss first.

        Without a serving model: those with a score below 1.
        """
        candidate = self.scores["candidate"]
        serving = self.scores.get("serving", [1.0] * len(candidate))
        losses = [before - now for now, before in zip(candidate, serving, strict=True)]
        worse = [index for index, loss in enumerate(losses) if loss > 0]
        return sorted(worse, key=lambda index: -losses[index])

    def count_better(self) -> int:
        """Return the number of instances with a higher score than by the serving model."""
        pairs = zip(self.scores["candidate"], self.scores.get("serving", []), strict=False)
        return sum(now > before for now, before in pairs)

    def confusion(self) -> tuple[list[str], list[list[int]]]:
        """Return the labels, and counts with a row per true label and a column per label of the candidate.

        Both are empty unless all truths and labels are strings, and few.
        """
        truths = [row["truth"] for row in self.rows]
        predicted = [get_label(each) for each in self.predictions["candidate"]]
        if not all(isinstance(each, str) for each in [*truths, *predicted]):
            return [], []
        labels = sorted({*truths, *predicted})
        if len(labels) > MAX_LABELS:
            return [], []
        counts = Counter(zip(truths, predicted, strict=True))
        return labels, [[counts[truth, label] for label in labels] for truth in labels]

    def format_table(self) -> str:
        """Return a table of both models' scores, a row for each variant."""
        lines = [f"{'':36}{'candidate':>10}{'serving':>10}"]
        for variant, means in self.compare_by_variant():
            cells = (
                f"{means[model]:.3f}" if model in means else "-"
                for model in ("candidate", "serving")
            )
            lines.append(f"{variant:36}{''.join(f'{cell:>10}' for cell in cells)}")
        if "serving" in self.scores:
            worse = len(self.find_worse())
            lines.append(f"\nbetter than the serving model: {self.count_better()}, worse: {worse}")
        return "\n".join(lines)


def write_files(folder: Path, comparison: Comparison, *, passed: bool, message: str) -> None:
    """Write report.json and report.html."""
    labels, confusion = comparison.confusion()
    worse = comparison.find_worse()
    metrics: dict[str, float] = {}
    for variant, means in comparison.compare_by_variant():
        suffix = "" if variant == ALL else f"_{variant.split(',')[0].replace(' ', '_')}"
        for model, mean in means.items():
            prefix = "serving_" if model == "serving" else ""
            metrics[f"{prefix}score{suffix}"] = round(mean, 4)
    content: dict[str, Any] = {
        "instances": len(comparison.rows),
        "metrics": metrics,
        "better": comparison.count_better(),
        "worse": worse,
        "labels": labels,
        "confusion": confusion,
        "passed": passed,
        "message": message,
    }
    has_serving = "serving" in comparison.scores
    title = "Worse than the serving model" if has_serving else "Score below 1"
    parts = [f"<pre>{escape(comparison.format_table())}</pre>"]
    if labels:
        table = _format_confusion(labels, confusion)
        parts.append("<h2>Confusion matrix (rows: truth, columns: candidate)</h2>")
        parts.append(f"<pre>{escape(table)}</pre>")
    models = list(comparison.scores)
    cells = "".join(f"<th>{name}" for name in ("instance", "truth", *models))
    parts += [f"<h2>{title}: {len(worse)}</h2><table><tr>{cells}"]
    for index in worse[:MAX_SHOWN]:
        row = comparison.rows[index]
        shown = [_show(row["instance"]), _show(row["truth"])]
        shown += [
            f"{_show(comparison.predictions[model][index])}<br>{comparison.scores[model][index]:.3f}"
            for model in models
        ]
        parts.append(f"<tr>{''.join(f'<td>{cell}' for cell in shown)}")
    _write(folder, content, "\n".join([*parts, "</table>"]))


def write_skipped(folder: Path, message: str) -> None:
    """Write the report of a model that is not evaluated, which passes."""
    content = {"metrics": {}, "labels": [], "confusion": [], "passed": True, "message": message}
    _write(folder, content, "")


def _write(folder: Path, content: dict[str, Any], html: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(content, indent=2) + "\n")
    page = PAGE.format(message=escape(content["message"]), content=html)
    (folder / "report.html").write_text(page)


def _format_confusion(labels: list[str], confusion: list[list[int]]) -> str:
    width = max(5, *(len(label) + 1 for label in labels))
    rows: list[list[Any]] = [
        ["", *labels],
        *([label, *row] for label, row in zip(labels, confusion, strict=True)),
    ]
    return "\n".join("".join(str(cell).rjust(width) for cell in row) for row in rows)


def _show(value: Any) -> str:
    """Return a value as HTML: a picture if it has base64, otherwise the start of its JSON."""
    if isinstance(value, dict):
        for picture in (value, *(each for each in value.values() if isinstance(each, dict))):
            if isinstance(picture.get("b64"), str):
                return f'<img alt="picture" src="data:image/png;base64,{escape(picture["b64"])}">'
    text = json.dumps(value, ensure_ascii=False)
    return escape(text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}…")
