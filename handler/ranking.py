"""Find rankings that are equal but for the order of classes with equal scores.

Scores of two classes that are equal within the tolerance may be ranked the other way around on another CPU, and at
the end of a top-k list another class may be in the place of the expected one.
"""

from collections.abc import Callable
from itertools import pairwise

from task import JSON

IsEqual = Callable[[JSON, JSON], bool]
"""Whether two values are equal within the tolerance."""


def is_reordered(
    prediction: list[JSON], expected: list[JSON], is_near: IsEqual, is_equal: IsEqual
) -> bool:
    """Whether two lists of objects or pairs differ only in the order of elements with equal scores.

    The score is a float by which the list is sorted; `is_near` compares two of them.
    """
    pairs = zip(prediction, expected, strict=True)
    moved = [index for index, pair in enumerate(pairs) if not is_equal(*pair)]
    for key in _find_keys(expected):
        wanted = [_get_score(each, key) for each in expected]
        got = [_get_score(each, key) for each in prediction]
        if None in got or not _is_sorted(wanted, is_near):
            continue
        if all(is_near(got[index], wanted[index]) for index in moved):
            left = [prediction[index] for index in moved]
            unmatched = [index for index in moved if not _take(left, expected[index], is_equal)]
            if all(
                _is_at_cut(wanted[index], wanted, is_near)
                and _get_labels(expected[index]) != _get_labels(other)
                for index, other in zip(unmatched, left, strict=True)
            ):
                return True
    return False


def are_columns_reordered(
    prediction: dict[str, JSON],
    expected: dict[str, JSON],
    keys: list[str],
    is_near: IsEqual,
    is_equal: IsEqual,
) -> bool:
    """Whether parallel arrays, such as "labels" and "scores", differ only as `is_reordered` allows."""
    got, wanted = (
        [list(row) for row in zip(*(columns[key] for key in keys), strict=True)]
        for columns in (prediction, expected)
    )
    return is_reordered(got, wanted, is_near, is_equal)


def find_columns(prediction: dict[str, JSON], expected: dict[str, JSON]) -> list[str]:
    """Return the keys of two or more arrays of equal length in both objects."""
    arrays = [
        key
        for key, value in expected.items()
        if isinstance(value, list) and isinstance(prediction.get(key), list)
    ]
    lengths = {len(each[key]) for key in arrays for each in (prediction, expected)}
    return arrays if len(arrays) > 1 and len(lengths) == 1 else []


def find_replaced_keys(
    prediction: dict[str, JSON], expected: dict[str, JSON], is_near: IsEqual
) -> set[str]:
    """Return missing keys of a top-k map in whose place is another key with an equal score."""
    if not (_is_score_map(prediction) and _is_score_map(expected)):
        return set()
    extra = [value for key, value in prediction.items() if key not in expected]
    return {
        key
        for key, score in expected.items()
        if key not in prediction
        and _is_at_cut(score, list(expected.values()), is_near)
        and _take(extra, score, is_near)
    }


def is_tied_label(
    key: str, prediction: dict[str, JSON], expected: dict[str, JSON], is_near: IsEqual
) -> bool:
    """Whether a text differs, but a map beside it has the same score for both texts."""
    got, wanted = prediction[key], expected[key]
    if not (isinstance(got, str) and isinstance(wanted, str)) or got == wanted:
        return False
    return any(
        _is_score_map(scores)
        and got in scores
        and wanted in scores
        and is_near(scores[got], scores[wanted])
        for scores in [*prediction.values(), *expected.values()]
    )


def _is_at_cut(score: float, scores: list[float], is_near: IsEqual) -> bool:
    """Whether a score is the lowest of a top-k list, and another class may have the same.

    Probabilities of classes add up to at most 1.
    """
    total = sum(scores)
    is_distribution = min(scores) >= 0 and (total <= 1 or is_near(total, 1.0))
    with_other = total + score
    has_room = not is_distribution or with_other <= 1 or is_near(with_other, 1.0)
    return has_room and is_near(score, min(scores))


def _take(values: list[JSON], wanted: JSON, is_equal: IsEqual) -> bool:
    """Remove the value that equals `wanted` from the list; return whether there is one."""
    for index, value in enumerate(values):
        if is_equal(value, wanted):
            del values[index]
            return True
    return False


def _find_keys(ranking: list[JSON]) -> list[str | int]:
    """Return the keys of a list of objects, or the positions of a list of pairs."""
    first = ranking[0] if ranking else None
    if isinstance(first, dict):
        return list(first)
    return list(range(len(first))) if isinstance(first, list) else []


def _get_score(element: JSON, key: str | int) -> JSON:
    """Return a number of an object or pair, or None."""
    try:
        score = element[key]
    except (KeyError, IndexError, TypeError):
        return None
    return score if type(score) in (int, float) else None


def _get_labels(element: JSON) -> list[JSON]:
    """Return the texts and whole numbers of an object or pair, by which classes differ."""
    values = element.values() if isinstance(element, dict) else element
    return [value for value in values if type(value) in (str, int)]


def _is_sorted(scores: list[JSON], is_near: IsEqual) -> bool:
    if None in scores or not any(isinstance(score, float) for score in scores):
        return False
    pairs = [pair for pair in pairwise(scores) if not is_near(*pair)]
    return all(a > b for a, b in pairs) or all(a < b for a, b in pairs)


def _is_score_map(value: JSON) -> bool:
    if not isinstance(value, dict) or not value:
        return False
    types = {type(each) for each in value.values()}
    return types <= {int, float} and float in types
