"""In a continuous integration (CI=true, as .ci/run sets) nothing is skipped: what is missing is a failure."""

import os
from collections.abc import Generator

import pytest

# What is tested is what is in the files, unless the compiled modules are asked for by name.
os.environ.setdefault("GATEWAY_COMPILED", "0")

_IS_CI = os.environ.get("CI", "").lower() in ("1", "true")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if _IS_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI=true does not allow: {report.longrepr}"
    return report
