"""What an evaluation found: numbers for machines, pictures and a page for people."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw
from sklearn.metrics import confusion_matrix

from model.train.evaluate import Evaluation, confusion_table, draw_misread
from model.train.write import as_instance

ALL = "all of them"
WIDTH, ROW, BAR = 640, 44, 300
"""Pixels: of the drawing, of a row in it, of a bar that says 100 %."""
CANDIDATE, SERVING = "#1a73e8", "#9aa0a6"


class Shown(NamedTuple):
    """A held-out picture."""

    way: str
    """In which way it was drawn."""
    picture: Image.Image
    label: str


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
        found: dict[str, Evaluation] = {}
        for each, said in zip(self.shown, self.candidate, strict=True):
            of_way = found.setdefault(each.way, Evaluation([], [], [], []))
            of_way.pictures.append(each.picture)
            of_way.labels.append(each.label)
            of_way.answers.append(said)
        return found


def write(folder: Path, compared: Compared, passes: bool, message: str) -> None:
    """Write report.json, report.html, accuracy.png, misread.png and confusion.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    evaluations = compared.evaluations()
    drawn = {"accuracy": bars(compared), "misread": draw_misread(evaluations)}
    for name, picture in drawn.items():
        picture.save(folder / f"{name}.png")
    confused = confusion_table(evaluations, compared.labels)
    (folder / "confusion.txt").write_text(f"{confused}\n")
    (folder / "report.html").write_text(_page(compared, message, drawn, confused))
    content = _numbers(compared) | {"passes": passes, "message": message}
    (folder / "report.json").write_text(json.dumps(content, indent=2) + "\n")


def table(compared: Compared) -> str:
    """Write a line for each way of drawing: the candidate's accuracy beside that of what serves."""
    lines = [f"{'':36}{'candidate':>10}{'serving':>10}"]
    for way, ours, theirs in compared.ways():
        lines.append(f"{way:36}{ours:>10.1%}{'-' if theirs is None else f'{theirs:.1%}':>10}")
    return "\n".join(lines)


def bars(compared: Compared) -> Image.Image:
    """Draw the accuracies."""
    rows = list(compared.ways())
    sheet = Image.new("RGB", (WIDTH, ROW * len(rows) + 30), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (way, ours, theirs) in enumerate(rows):
        top = row * ROW + 8
        pen.text((8, top + 8), way, fill="black")
        for line, (share, colour) in enumerate(((ours, CANDIDATE), (theirs, SERVING))):
            if share is not None:
                y = top + line * 16
                pen.rectangle((250, y, 250 + round(BAR * share), y + 12), fill=colour)
                pen.text((255 + BAR, y), f"{share:.1%}", fill="black")
    legend = "candidate blue, what serves now grey" if compared.serving else "nothing serves yet"
    pen.text((8, sheet.height - 20), legend, fill="black")
    return sheet


def _numbers(compared: Compared) -> dict[str, Any]:
    metrics: dict[str, float] = {}
    for way, ours, theirs in compared.ways():
        name = "accuracy" if way == ALL else f"accuracy_{way.split(',')[0].replace(' ', '_')}"
        metrics[name] = round(ours, 4)
        if theirs is not None:
            metrics[f"serving_{name}"] = round(theirs, 4)
    won, lost = compared.apart()
    wanted = [each.label for each in compared.shown]
    counts = confusion_matrix(wanted, compared.candidate, labels=compared.labels)
    return {
        "pictures": len(compared.shown),
        "metrics": metrics,
        "only_candidate_right": won,
        "only_serving_right": lost,
        "labels": compared.labels,
        "confusion": counts.tolist(),
    }


def _page(compared: Compared, message: str, drawn: dict[str, Image.Image], confused: str) -> str:
    won, lost = compared.apart()
    apart = (
        f"<p>{won} pictures only the candidate read right, {lost} only what serves now.</p>"
        if compared.serving
        else ""
    )
    pictures = "".join(
        f'<h2>{name}</h2><img alt="{name}" src="data:image/png;base64,{as_instance(picture)["b64"]}">'
        for name, picture in drawn.items()
    )
    return (
        '<!doctype html><meta charset="utf-8"><title>Evaluation</title>'
        '<body style="font-family: sans-serif; max-width: 60rem">'
        f"<h1>{escape(message)}</h1>{apart}{pictures}"
        f"<h2>a row: what it is; a column: what the candidate read</h2><pre>{escape(confused)}</pre>\n"
    )
