"""Compare a prediction with the expected one, allowing for what differs between CPUs.

Floats may differ by a tolerance, and scores that are equal within it may be ranked in another order.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from handler.ranking import (
    are_columns_reordered,
    find_columns,
    find_replaced_keys,
    is_reordered,
    is_tied_label,
)
from task import JSON
from task.requests_file import DEFAULT_TOLERANCE

MIN_SCALE = 0.01
"""Floats are compared relative to the largest float beside them, but to no less than this."""
MAX_VALUE_CHARS = 80
"""Characters of a value in a message."""


class Difference(NamedTuple):
    """A part of a prediction that is not as expected."""

    size: float
    path: str
    text: str


def find_differences(
    prediction: JSON, expected: JSON, tolerance: float = DEFAULT_TOLERANCE
) -> list[str]:
    """Return how a prediction differs from what is expected, the largest differences of floats first.

    Objects may have more keys than expected.
    """
    found = sorted(_Comparison(tolerance).compare(prediction, expected, "", 0), key=lambda d: -d[0])
    return [f"{each.path}: {each.text}" if each.path else each.text for each in found]


class _Comparison:
    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance

    def is_near(self, first: JSON, second: JSON, scale: float = 0) -> bool:
        """Whether two numbers are equal within the tolerance."""
        floor = self.tolerance * max(scale, MIN_SCALE)
        return math.isclose(first, second, rel_tol=self.tolerance, abs_tol=floor)

    def is_equal(self, prediction: JSON, expected: JSON) -> bool:
        """Whether two values have no difference."""
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
                text = _describe(prediction, expected)
                yield Difference(abs(prediction - expected), path, text)
        elif prediction != expected or isinstance(prediction, bool) != isinstance(expected, bool):
            yield Difference(math.inf, path, _describe(prediction, expected))

    def _compare_objects(
        self, prediction: dict[str, JSON], expected: dict[str, JSON], path: str
    ) -> Iterator[Difference]:
        replaced = find_replaced_keys(prediction, expected, self.is_near)
        by_key: dict[str, list[Difference]] = {}
        for key, value in expected.items():
            if key not in prediction:
                if key not in replaced:
                    text = f"expected the key {key}, got {_shorten(list(prediction))}"
                    by_key[key] = [Difference(math.inf, path, text)]
            elif not is_tied_label(key, prediction, expected, self.is_near):
                where = f"{path}.{key}" if path else key
                by_key[key] = list(self.compare(prediction[key], value, where, 0))
        columns = find_columns(prediction, expected)
        if any(by_key[key] for key in columns):
            functions = self.is_near, self.is_equal
            if are_columns_reordered(prediction, expected, columns, *functions):
                by_key.update({key: [] for key in columns})
        for found in by_key.values():
            yield from found

    def _compare_arrays(
        self, prediction: list[JSON], expected: list[JSON], path: str
    ) -> Iterator[Difference]:
        if len(prediction) != len(expected):
            text = f"expected {len(expected)} values, got {len(prediction)}"
            yield Difference(math.inf, path, text)
            return
        scale = max((abs(each) for each in expected if isinstance(each, float)), default=0)
        found = [
            difference
            for index, (got, value) in enumerate(zip(prediction, expected, strict=True))
            for difference in self.compare(got, value, f"{path}[{index}]", scale)
        ]
        if found and not is_reordered(prediction, expected, self.is_near, self.is_equal):
            yield from found


def _is_float_pair(first: JSON, second: JSON) -> bool:
    numbers = all(type(each) in (int, float) for each in (first, second))
    return numbers and float in (type(first), type(second))


def _describe(prediction: JSON, expected: JSON) -> str:
    return f"expected {_shorten(expected)}, got {_shorten(prediction)}"


def _shorten(value: JSON) -> str:
    text = str(value)
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}..."
