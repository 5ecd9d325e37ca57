"""Types of command line options, for argparse."""

import argparse


def positive_int(text: str) -> int:
    """Return a whole number of 1 or more; raise ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number of 1 or more")
    return int(text)


def positive_float(text: str) -> float:
    """Return a number above 0; raise ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return value
