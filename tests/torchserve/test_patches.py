"""The switch TORCHSERVE_PATCHES: the same answers with and without the patches of TorchServe."""

import pytest

from serving.layout import Layout
from tests import cases
from tests.images import ARCHIVE
from tests.torchserve.conftest import serving


@pytest.mark.parametrize("patched", [True, False], ids=["on", "off"])
def test_archive_gives_the_same_answers_with_patches_on_and_off(
    patched: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(ARCHIVE, layout=Layout(workers=1, threads=1), patched=patched) as endpoint:
        for case in cases.CASES[:12]:
            answer = endpoint.post(case.body)
            cases.check(case, answer.code, answer.body)
