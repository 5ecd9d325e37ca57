"""Combine the errors of a request's instances into one error of the request."""

from collections.abc import Sequence

from handler.envelope import Request, truncate
from handler.errors import (
    InternalError,
    InvalidArgumentError,
    InvalidParameterError,
    OutOfMemoryError,
    RequestError,
)

MAX_REPORTED = 20
"""Failed instances of a request that are reported with their reason; of the others only the indexes are."""
MAX_REASON_CHARS = 1000
"""Characters of each reason."""


def find_request_error(request: Request, results: Sequence[object]) -> RequestError | None:
    """Return the error that fails a request, or None if it continues.

    `results` has, for each instance, its result or a RequestError. The error names every failed instance;
    it is InternalError if one of them is, or else OutOfMemoryError. With `on_error` the request continues,
    except after an InvalidParameterError.
    """
    failed = [(index, each) for index, each in enumerate(results) if isinstance(each, RequestError)]
    if not failed:
        return None
    for _, error in failed:
        if isinstance(error, InvalidParameterError):
            return error
    if request.returns_errors:
        return None
    reasons = [
        f"instances[{index}]: {truncate(str(error), MAX_REASON_CHARS)}"
        for index, error in failed[:MAX_REPORTED]
    ]
    if unreported := [index for index, _ in failed[MAX_REPORTED:]]:
        reasons.append(f"and {len(unreported)} more: {_format_ranges(unreported)}")
    message = "; ".join(reasons)
    internal = [error for _, error in failed if isinstance(error, InternalError)]
    if internal:
        return InternalError(message, internal[0].cause)
    if any(isinstance(error, OutOfMemoryError) for _, error in failed):
        return OutOfMemoryError(message)
    return InvalidArgumentError(message)


def _format_ranges(indexes: list[int]) -> str:
    """Return ascending numbers as "20-22, 25"."""
    ranges: list[list[int]] = []
    for index in indexes:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
