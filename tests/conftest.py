"""What holds for every test: under REQUIRE_ALL a test that skips has failed."""

import os
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure that quotes its reason, where nothing may be missing."""
    report = yield
    if report.skipped and os.environ.get("REQUIRE_ALL"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"REQUIRE_ALL is set, and this was skipped. {reason}"
    return report
