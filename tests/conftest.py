"""What holds for every test: under REQUIRE_ALL a test that skips has failed, and groups stay together."""

import os
from collections.abc import Generator

import pytest
from _pytest.nodeid import coerce_node_id


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure that quotes its reason, where nothing may be missing."""
    report = yield
    if report.skipped and os.environ.get("REQUIRE_ALL"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"REQUIRE_ALL is set, and this was skipped. {reason}"
    return report


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let --dist loadgroup see the groups: pytest 9.2 ignores where pytest-xdist 3.8 writes them.

    Without it the tests of a group run on any worker, each with containers of its own.
    """
    for item in items:
        if "_nodeid" in vars(item):
            item._id = coerce_node_id(vars(item)["_nodeid"])
