"""Pages whose commands are for Google itself name commands that exist."""

import pytest

from tests.cloud.guide import spelt
from tests.pictures import ROOT


@pytest.mark.parametrize(("page", "commands"), [("security.md", 5), ("monitoring.md", 4)])
def test_commands_for_google_itself_are_spelt_as_gcloud_spells_them(
    page: str, commands: int
) -> None:
    assert spelt(ROOT / "docs" / page) == commands
