"""What is tested is what is served: the locks agree on every package that they share."""

import re

import pytest

from tests.images import ROOT


def pins(group: str) -> set[str]:
    """Return the NAME==VERSION of a lock."""
    text = (ROOT / "requirements" / f"{group}.lock").read_text()
    return set(re.findall(r"^[\w.-]+==\S+", text, re.MULTILINE))


@pytest.mark.parametrize(("part", "whole"), [("serve", "local"), ("local", "dev")])
def test_lock_has_every_pin_of_the_lock_that_it_extends(part: str, whole: str) -> None:
    assert pins(part)
    assert pins(part) <= pins(whole)
