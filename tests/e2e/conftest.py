"""A failed end-to-end test shows what the processes it used have said, and no process outlives its test."""

import re
from collections.abc import Generator, Iterator

import pytest

from gateway.stores.keys import is_well_formed
from tests.e2e import harness

_SHOWN = 20_000  # characters of each process's output, the last ones


# What no log may ever hold: a key, a JWT with its signature, a password, a private key, a hash of a password.
_SECRETS = re.compile(
    rb"gw_[0-9A-Za-z]{10}_[0-9A-Za-z]{49}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20,}|[Bb]asic [A-Za-z0-9+/]{8,}"
    rb"|PRIVATE KEY-----|\$2[aby]\$\d\d\$|\$argon2(?:id|i|d)\$v="
)


def secrets_in(text: bytes) -> list[bytes]:
    """The secrets that a text holds; what only looks like a key and fails its check is none."""
    found = _SECRETS.findall(text)
    return [each for each in found if not each.startswith(b"gw_") or is_well_formed(each)]


# The modules whose gateways are measured for coverage. To measure one costs half of its start again (0.5 s each), and
# most of them run what the tests in tests/edge, core … have run in their own process; these run what only they can.
_MEASURED = {
    "test_acme", "test_checks", "test_cli", "test_connections", "test_drain", "test_health", "test_mtls",
    "test_reload", "test_resilience", "test_shutdown", "test_upgrade", "test_workers",
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _measure_some(request: pytest.FixtureRequest) -> Iterator[None]:
    """Set up before the module's own fixtures. The variable is how coverage.py has child processes measured."""
    variable = "COVERAGE_PROCESS_CONFIG"
    with pytest.MonkeyPatch.context() as patch:
        if request.path.stem not in _MEASURED:
            patch.delenv(variable, raising=False)
        yield


@pytest.fixture(autouse=True)
def _end_processes() -> Iterator[None]:
    """Fixtures of a wider scope are set up before this one: their processes stay. Over the whole suite, nothing that a
    gateway printed may hold a secret."""
    before = list(harness.running)
    yield
    ended = harness.running[len(before) :]
    for process in ended:
        process.kill()
    harness.running[:] = before
    for process in ended:
        if isinstance(process, harness.Gateway):
            assert secrets_in(process.out.read_bytes() + process.err.read_bytes()) == []


@pytest.fixture(autouse=True, scope="module")
def _keep_secrets() -> Iterator[None]:
    """The same of the gateways that a module shares: this is set up before them, and torn down behind them."""
    before = list(harness.running)
    yield
    for process in harness.running:
        if isinstance(process, harness.Gateway) and process not in before:
            assert secrets_in(process.out.read_bytes() + process.err.read_bytes()) == []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and report.when in ("setup", "call"):
        for process in harness.running:
            report.sections.append((f"{process.name} {process.pid}", process.output[-_SHOWN:]))
    return report
