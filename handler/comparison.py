"""Compare a prediction with the expected one, allowing for what differs between CPUs.

Floats may differ by a tolerance. Scores that are equal within it may be ranked in another order, so a reordered
list, the other label of two equal scores, and the other key at the end of a top-k map are no differences.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

from task import JSON
from task.requests_file import DEFAULT_TOLERANCE

MIN_SCALE = 0.01
"""Floats are compared relative to the largest float beside them, but to no less than this."""
MAX_VALUE_CHARS = 80
"""Characters of a value in a message."""


class Difference(NamedTuple):
    """A part of a prediction that is not as expected."""

    size: float
    text: str


def find_differences(
    prediction: JSON, expected: JSON, tolerance: float = DEFAULT_TOLERANCE
) -> list[str]:
    """Return how a prediction differs from what is expected, the largest differences of floats first.

    Objects may have more keys than expected.
    """
    found = sorted(_Comparison(tolerance).compare(prediction, expected, "", 0), key=lambda d: -d[0])
    return [difference.text for difference in found]


class _Comparison:
    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance

    def is_near(self, first: JSON, second: JSON, scale: float = 0) -> bool:
        """Whether two numbers are equal within the tolerance."""
        floor = self.tolerance * max(scale, MIN_SCALE)
        return math.isclose(first, second, rel_tol=self.tolerance, abs_tol=floor)

    def is_equal(self, prediction: JSON, expected: JSON) -> bool:
        return next(self.compare(prediction, expected, "", 0), None) is None

    def compare(
        self, prediction: JSON, expected: JSON, path: str, scale: float
    ) -> Iterator[Difference]:
        """Yield the differences; `scale` is the largest float beside the expected value in an array."""
        if isinstance(prediction, dict) and isinstance(expected, dict):
            yield from self._compare_objects(prediction, expected, path)
        elif isinstance(prediction, list) and isinstance(expected, list):
            yield from self._compare_arrays(prediction, expected, path)
        elif _is_float_pair(prediction, expected):
            if not self.is_near(prediction, expected, scale):
                yield Difference(abs(prediction - expected), _message(path, expected, prediction))
        elif prediction != expected or isinstance(prediction, bool) != isinstance(expected, bool):
            yield Difference(math.inf, _message(path, expected, prediction))

    def _compare_objects(
        self, prediction: dict[str, JSON], expected: dict[str, JSON], path: str
    ) -> Iterator[Difference]:
        replaced = self._find_replaced_keys(prediction, expected)
        found: list[Difference] = []
        for key, value in expected.items():
            if key not in prediction:
                if key not in replaced:
                    text = f"{_label(path)}expected the key {key}, got {_shorten(list(prediction))}"
                    found.append(Difference(math.inf, text))
            elif not self._is_tied_label(key, prediction, expected):
                found += self.compare(prediction[key], value, f"{path}.{key}", 0)
        columns = _find_columns(prediction, expected) if found else []
        if columns:
            rows = [_rows(each, columns) for each in (prediction, expected)]
            if self._is_reordered(*rows):
                reordered = tuple(f"{_label(f'{path}.{key}')[:-2]}[" for key in columns)
                found = [each for each in found if not each.text.startswith(reordered)]
        yield from found

    def _find_replaced_keys(
        self, prediction: dict[str, JSON], expected: dict[str, JSON]
    ) -> set[str]:
        """Return missing keys of a top-k map at whose place is another key with an equal score."""
        if not (_is_score_map(prediction) and _is_score_map(expected)):
            return set()
        missing = [key for key in expected if key not in prediction]
        extra = [value for key, value in prediction.items() if key not in expected]
        replaced = set()
        for key in missing:
            match = next((value for value in extra if self.is_near(value, expected[key])), None)
            if match is not None and self._is_at_cut(expected[key], list(expected.values())):
                extra.remove(match)
                replaced.add(key)
        return replaced

    def _is_at_cut(self, score: float, scores: list[float]) -> bool:
        """Whether a score is the lowest of a top-k list and another class may have the same score.

        Probabilities of classes add up to at most 1.
        """
        total = sum(scores)
        is_distribution = min(scores) >= 0 and total <= 1 + self.tolerance
        has_room = not is_distribution or total + score <= 1 + self.tolerance
        return has_room and self.is_near(score, min(scores))

    def _is_tied_label(
        self, key: str, prediction: dict[str, JSON], expected: dict[str, JSON]
    ) -> bool:
        """Whether a text differs, but a map beside it has the same score for both texts."""
        got, wanted = prediction[key], expected[key]
        if not (isinstance(got, str) and isinstance(wanted, str)) or got == wanted:
            return False
        maps = [value for each in (prediction, expected) for value in each.values()]
        return any(
            _is_score_map(scores)
            and got in scores
            and wanted in scores
            and self.is_near(scores[got], scores[wanted])
            for scores in maps
        )

    def _compare_arrays(
        self, prediction: list[JSON], expected: list[JSON], path: str
    ) -> Iterator[Difference]:
        if len(prediction) != len(expected):
            text = f"{_label(path)}expected {len(expected)} values, got {len(prediction)}"
            yield Difference(math.inf, text)
            return
        scale = max((abs(each) for each in expected if isinstance(each, float)), default=0)
        found = [
            difference
            for index, (got, value) in enumerate(zip(prediction, expected, strict=True))
            for difference in self.compare(got, value, f"{path}[{index}]", scale)
        ]
        if found and not self._is_reordered(prediction, expected):
            yield from found

    def _is_reordered(self, prediction: list[JSON], expected: list[JSON]) -> bool:
        """Whether two rankings differ only in the order of elements with equal scores."""
        pairs = zip(prediction, expected, strict=True)
        moved = [index for index, pair in enumerate(pairs) if not self.is_equal(*pair)]
        for key in self._find_score_keys(expected):
            wanted = [_get_score(each, key) for each in expected]
            got = [_get_score(each, key) for each in prediction]
            if None in wanted or None in got:
                continue
            if all(self.is_near(got[index], wanted[index]) for index in moved):
                left = [prediction[index] for index in moved]
                unmatched = [
                    index for index in moved if not _take(left, expected[index], self.is_equal)
                ]
                if all(self._is_at_cut(wanted[index], wanted) for index in unmatched):
                    return True
        return False

    def _find_score_keys(self, ranking: list[JSON]) -> list[str | int]:
        """Return the keys or positions of the floats by which objects or pairs are sorted."""
        first = ranking[0] if ranking else None
        keys = list(first) if isinstance(first, dict) else []
        if isinstance(first, list):
            keys = list(range(len(first)))
        return [key for key in keys if self._is_sorted([_get_score(each, key) for each in ranking])]

    def _is_sorted(self, scores: list[JSON]) -> bool:
        if None in scores or not any(isinstance(score, float) for score in scores):
            return False
        pairs = [pair for pair in pairwise(scores) if not self.is_near(*pair)]
        return all(a > b for a, b in pairs) or all(a < b for a, b in pairs)


def _take(values: list[JSON], wanted: JSON, is_equal: Callable[[JSON, JSON], bool]) -> bool:
    """Remove the value that equals `wanted` from the list; return whether there is one."""
    for index, value in enumerate(values):
        if is_equal(value, wanted):
            del values[index]
            return True
    return False


def _get_score(element: JSON, key: str | int) -> JSON:
    """Return a number of an object or pair, or None."""
    try:
        score = element[key]
    except (KeyError, IndexError, TypeError):
        return None
    return score if type(score) in (int, float) else None


def _find_columns(prediction: dict[str, JSON], expected: dict[str, JSON]) -> list[str]:
    """Return the keys of two or more parallel arrays, such as "labels" and "scores"."""
    arrays = {
        key: len(value)
        for key, value in expected.items()
        if isinstance(value, list) and isinstance(prediction.get(key), list)
    }
    lengths = {*arrays.values(), *(len(prediction[key]) for key in arrays)}
    return list(arrays) if len(arrays) > 1 and len(lengths) == 1 else []


def _rows(columns: dict[str, JSON], keys: list[str]) -> list[JSON]:
    return [list(row) for row in zip(*(columns[key] for key in keys), strict=True)]


def _is_score_map(value: JSON) -> bool:
    if not isinstance(value, dict) or not value:
        return False
    types = {type(each) for each in value.values()}
    return types <= {int, float} and float in types


def _is_float_pair(first: JSON, second: JSON) -> bool:
    numbers = all(type(each) in (int, float) for each in (first, second))
    return numbers and float in (type(first), type(second))


def _label(path: str) -> str:
    return f"{path.lstrip('.')}: " if path else ""


def _message(path: str, expected: JSON, got: JSON) -> str:
    return f"{_label(path)}expected {_shorten(expected)}, got {_shorten(got)}"


def _shorten(value: JSON) -> str:
    text = str(value)
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}..."
