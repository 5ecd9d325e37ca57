"""What an evaluation found: numbers for machines, a picture and a page for people."""

import base64
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from model.train.evaluate import Evaluation, confusion_table, draw_misread
from pipeline.pictures import Shown

ALL = "all of them"


@dataclass(frozen=True)
class Compared:
    """What two models said of the same pictures."""

    labels: list[str]
    shown: list[Shown]
    candidate: list[str]
    """The label that it gave each picture."""
    serving: list[str] | None
    """None where nothing serves yet."""

    def accuracy(self, said: list[str], way: str = ALL) -> float:
        """Return the share of pictures, of one way or of all, that were read right."""
        right = [
            each.label == label
            for each, label in zip(self.shown, said, strict=True)
            if way in (ALL, each.way)
        ]
        return sum(right) / len(right)

    def ways(self) -> Iterator[tuple[str, float, float | None]]:
        """Give (way, the candidate's accuracy, that of what serves), and last that of all."""
        for way in (*dict.fromkeys(each.way for each in self.shown), ALL):
            serving = self.accuracy(self.serving, way) if self.serving else None
            yield way, self.accuracy(self.candidate, way), serving

    def apart(self) -> tuple[int, int]:
        """Return how many pictures only the candidate, and only what serves, read right."""
        pairs = list(zip(self.shown, self.candidate, self.serving or [], strict=bool(self.serving)))
        won = sum(each.label == ours != theirs for each, ours, theirs in pairs)
        lost = sum(each.label == theirs != ours for each, ours, theirs in pairs)
        return won, lost

    def evaluations(self) -> dict[str, Evaluation]:
        """Return the candidate's answers as the training's own evaluation has them."""
        pictures = [each.picture for each in self.shown]
        labels = [each.label for each in self.shown]
        return {ALL: Evaluation(pictures, labels, self.candidate, [1.0] * len(labels))}


def write(folder: Path, compared: Compared, passes: bool, message: str) -> None:
    """Write report.json, report.html, misread.png and confusion.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_misread(compared.evaluations()).save(folder / "misread.png")
    confused = confusion_table(compared.evaluations(), compared.labels)
    (folder / "confusion.txt").write_text(f"{confused}\n")
    misread = base64.b64encode((folder / "misread.png").read_bytes()).decode()
    (folder / "report.html").write_text(
        '<!doctype html><meta charset="utf-8"><title>Evaluation</title>'
        '<body style="font-family: sans-serif; max-width: 60rem">'
        f"<h1>{escape(message)}</h1><pre>{escape(table(compared))}</pre>"
        f'<h2>misread</h2><img alt="misread" src="data:image/png;base64,{misread}">'
        f"<h2>a row: what it is; a column: what the candidate read</h2><pre>{escape(confused)}</pre>\n"
    )
    content = _numbers(compared) | {"passes": passes, "message": message}
    (folder / "report.json").write_text(json.dumps(content, indent=2) + "\n")


def table(compared: Compared) -> str:
    """Write a line for each way of drawing: the candidate's accuracy beside that of what serves."""
    lines = [f"{'':36}{'candidate':>10}{'serving':>10}"]
    for way, ours, theirs in compared.ways():
        lines.append(f"{way:36}{ours:>10.1%}{'-' if theirs is None else f'{theirs:.1%}':>10}")
    if compared.serving:
        lines.append(
            "\n{} only the candidate read right, {} only what serves".format(*compared.apart())
        )
    return "\n".join(lines)


def _numbers(compared: Compared) -> dict[str, Any]:
    metrics: dict[str, float] = {}
    for way, ours, theirs in compared.ways():
        name = "accuracy" if way == ALL else f"accuracy_{way.split(',')[0].replace(' ', '_')}"
        metrics[name] = round(ours, 4)
        if theirs is not None:
            metrics[f"serving_{name}"] = round(theirs, 4)
    won, lost = compared.apart()
    wanted = [each.label for each in compared.shown]
    counts = Counter(zip(wanted, compared.candidate, strict=True))
    return {
        "pictures": len(compared.shown),
        "metrics": metrics,
        "only_candidate_right": won,
        "only_serving_right": lost,
        "labels": compared.labels,
        "confusion": [
            [counts[row, column] for column in compared.labels] for row in compared.labels
        ],
    }
