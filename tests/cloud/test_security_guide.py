"""docs/security.md names commands that exist."""

from tests.cloud.guide import spelt
from tests.pictures import ROOT


def test_commands_for_google_itself_are_spelt_as_gcloud_spells_them() -> None:
    assert spelt(ROOT / "docs" / "security.md") == 5
