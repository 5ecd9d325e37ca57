"""For all tests: they use a model of their own, and if REQUIRE_ALL is set, a skipped test fails."""

import os
from collections.abc import Generator

import pytest

from project.model_folder import find_model
from serving import archive

# Programs that a test starts use the same model.
os.environ["MODEL"] = "tests/toy"

# Once for all workers of pytest-xdist, and before another conftest.py reads the archive.
if "PYTEST_XDIST_WORKER" not in os.environ:
    archive.build(find_model("tests/toy"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report a skipped test as failed, with the reason of the skip, if REQUIRE_ALL is set."""
    report = yield
    if report.skipped and os.environ.get("REQUIRE_ALL"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped, but REQUIRE_ALL is set. {reason}"
    return report
