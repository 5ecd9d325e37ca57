"""A lock that extends another has the same versions, so the tests run with the served packages."""

import re

import pytest

from tests.images import ROOT


def read_pins(group: str) -> set[str]:
    """Return the NAME==VERSION entries of a lock."""
    text = (ROOT / "requirements" / f"{group}.lock").read_text()
    return set(re.findall(r"^[\w.-]+==\S+", text, re.MULTILINE))


@pytest.mark.parametrize(("base", "extension"), [("serve", "local"), ("local", "dev")])
def test_lock_has_every_pin_of_the_lock_that_it_extends(base: str, extension: str) -> None:
    assert read_pins(base)
    assert read_pins(base) <= read_pins(extension)
