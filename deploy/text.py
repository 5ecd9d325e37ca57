"""Texts for people: numbers with nouns, durations. Pure."""

import time


def plural(count: int, noun: str) -> str:
    """Return the count and the noun, such as "1 version" or "2 versions"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_duration(seconds: float) -> str:
    """Return a duration, such as "40 s", "1 min 30 s", "10 min" or "2 h"."""
    seconds = round(seconds)
    parts = ((seconds // 3600, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count) or "0 s"


def format_elapsed(started_s: float) -> str:
    """Return the time since a moment of the monotonic clock, in steps of half a minute; "" before the first."""
    half_minutes = (time.monotonic() - started_s) // 30
    return f"{format_duration(half_minutes * 30)} …" if half_minutes else ""
