"""In a continuous integration (CI=true, as .ci/run sets) nothing is skipped: what is missing is a failure. What takes
longest is begun first."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from gateway import compiled

# What is tested is what is in the files, unless the compiled modules are asked for by name.
os.environ.setdefault("GATEWAY_COMPILED", "0")
compiled.use()

_IS_CI = os.environ.get("CI", "").lower() in ("1", "true")

# Files that take half a minute and more, in that order: where files run side by side (scripts/test), the last to end
# should not be one that was begun last.
_LONGEST = (
    "e2e/test_mlserver.py", "e2e/test_scripts.py", "e2e/test_tls_profile.py", "e2e/test_testssl.py",
    "e2e/test_ejection.py", "e2e/test_inference.py", "e2e/test_connections.py", "e2e/test_shutdown.py",
    "e2e/test_acme.py", "e2e/test_upgrade.py", "core/test_ejection.py", "e2e/test_reload.py",
)  # fmt: skip
_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    begun_first = {_HERE / name: rank for rank, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: begun_first.get(item.path, len(begun_first)))  # the others as they were


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if _IS_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI=true does not allow: {report.longrepr}"
    return report
