"""Pages whose commands are for Google itself name commands that exist."""

import pytest

from tests.cloud.guide import spelt
from tests.pictures import ROOT

COMMANDS = {
    "cloud.md": 6,
    "functions.md": 4,
    "kubernetes.md": 5,
    "monitoring.md": 4,
    "security.md": 5,
}


@pytest.mark.parametrize(("page", "commands"), COMMANDS.items())
def test_commands_for_google_itself_are_spelt_as_gcloud_spells_them(
    page: str, commands: int
) -> None:
    assert spelt(ROOT / "docs" / page) >= commands
