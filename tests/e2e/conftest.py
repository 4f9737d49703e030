"""A failed end-to-end test shows what the processes it used have said, and no process outlives its test."""

from collections.abc import Generator, Iterator

import pytest

from tests.e2e import harness

_SHOWN = 20_000  # characters of each process's output, the last ones


@pytest.fixture(autouse=True)
def _end_processes() -> Iterator[None]:
    """Fixtures of a wider scope are set up before this one: their processes stay."""
    before = list(harness.running)
    yield
    for process in harness.running[len(before) :]:
        process.kill()
    harness.running[:] = before


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and report.when in ("setup", "call"):
        for process in harness.running:
            report.sections.append((f"{process.name} {process.pid}", process.output[-_SHOWN:]))
    return report
