"""The report of an evaluation: metrics as JSON, and an HTML page with misread pictures."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from sklearn.metrics import confusion_matrix
from train.evaluation import Sample, accuracy_by_variant, write_report

ALL = "all pictures"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The predictions of two models for the same pictures."""

    labels: list[str]
    samples: list[Sample]
    candidate: list[str]
    """The label predicted for each picture."""
    serving: list[str] | None
    """Likewise by the serving model; None without one."""

    def accuracy(self, predictions: list[str]) -> float:
        """Return the share of all pictures that were predicted right."""
        samples = [each._replace(variant=ALL) for each in self.samples]
        return float(accuracy_by_variant(samples, predictions)[ALL])

    def compare_by_variant(self) -> Iterator[tuple[str, float, float | None]]:
        """Yield (variant, candidate's accuracy, serving model's accuracy), the total last."""
        candidate, serving = (
            accuracy_by_variant(self.samples, predictions) | {ALL: self.accuracy(predictions)}
            if predictions
            else {}
            for predictions in (self.candidate, self.serving)
        )
        for variant, accuracy in candidate.items():
            yield variant, accuracy, serving.get(variant)

    def count_only_right(self) -> tuple[int, int]:
        """Return how many pictures only the candidate, and only the serving model, predicted right."""
        serving = self.serving or []
        rows = list(zip(self.samples, self.candidate, serving, strict=bool(serving)))
        return (
            sum(each.label == candidate != serving for each, candidate, serving in rows),
            sum(each.label == serving != candidate for each, candidate, serving in rows),
        )


def write_files(folder: Path, comparison: Comparison, *, passed: bool, message: str) -> None:
    """Write report.json, report.html, misread.png and confusion.txt."""
    confusion = write_report(folder, comparison.samples, comparison.candidate, comparison.labels)
    misread = base64.b64encode((folder / "misread.png").read_bytes()).decode()
    (folder / "report.html").write_text(
        '<!doctype html><meta charset="utf-8"><title>Evaluation</title>'
        '<body style="font-family: sans-serif; max-width: 60rem">'
        f"<h1>{escape(message)}</h1><pre>{escape(format_table(comparison))}</pre>"
        f'<h2>Misread pictures</h2><img alt="misread" src="data:image/png;base64,{misread}">'
        f"<h2>Confusion matrix (rows: true label, columns: candidate)</h2><pre>{escape(confusion)}</pre>\n"
    )
    content = _summarize(comparison) | {"passed": passed, "message": message}
    (folder / "report.json").write_text(json.dumps(content, indent=2) + "\n")


def format_table(comparison: Comparison) -> str:
    """Return a table of both models' accuracies, a row for each variant."""
    lines = [f"{'':36}{'candidate':>10}{'serving':>10}"]
    for variant, candidate, serving in comparison.compare_by_variant():
        cell = "-" if serving is None else f"{serving:.1%}"
        lines.append(f"{variant:36}{candidate:>10.1%}{cell:>10}")
    if comparison.serving:
        candidate_only, serving_only = comparison.count_only_right()
        lines.append(
            f"\nright only in the candidate: {candidate_only}, only in the serving model: {serving_only}"
        )
    return "\n".join(lines)


def _summarize(comparison: Comparison) -> dict[str, Any]:
    metrics: dict[str, float] = {}
    for variant, candidate, serving in comparison.compare_by_variant():
        suffix = "" if variant == ALL else f"_{variant.split(',')[0].replace(' ', '_')}"
        metrics[f"accuracy{suffix}"] = round(candidate, 4)
        if serving is not None:
            metrics[f"serving_accuracy{suffix}"] = round(serving, 4)
    candidate_only, serving_only = comparison.count_only_right()
    true_labels = [each.label for each in comparison.samples]
    confusion = confusion_matrix(true_labels, comparison.candidate, labels=comparison.labels)
    return {
        "pictures": len(comparison.samples),
        "metrics": metrics,
        "only_candidate_right": candidate_only,
        "only_serving_right": serving_only,
        "labels": comparison.labels,
        "confusion": confusion.tolist(),
    }
