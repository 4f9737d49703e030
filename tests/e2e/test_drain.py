"""An endpoint is taken out and back by command: no new sessions, bound ones stay, until their deadline."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.harness import DemoModel, Gateway, gateway_command, run_gateway, served, until


@pytest.fixture(scope="module")
def demos() -> Iterator[list[DemoModel]]:
    with DemoModel(version="v1") as one, DemoModel(version="v2") as two:
        yield [one, two]


@pytest.fixture(scope="module")
def gateway(demos: list[DemoModel]) -> Iterator[Gateway]:
    arms = {name: {"endpoints": [demo.url], "weight": 50} for name, demo in zip("ab", demos, strict=True)}
    models = {
        "demo": served([demo.url for demo in demos], sticky={"cookie": "gw", "ttl": "1h"}),
        "arms": {"auth": [], "versions": arms},
    }
    with Gateway(models) as gateway:
        yield gateway


def who(client: object) -> str:
    answer = client.get("/models/demo/v2/health/ready")  # type: ignore[attr-defined]
    assert answer.status_code == 200
    return str(answer.headers["x-demo-model"])


def test_a_drained_endpoint_keeps_its_sessions_and_gets_no_new_one(gateway: Gateway, demos: list[DemoModel]) -> None:
    url = demos[0].url
    bound = gateway.client()
    until(lambda: bound.cookies.clear() or who(bound) == "demo@v1", "a session on the first endpoint")
    said = run_gateway("drain", url, folder=gateway.folder)
    assert "1 endpoint" in said
    assert {who(bound) for _ in range(5)} == {"demo@v1"}
    for _ in range(6):
        with gateway.client() as stranger:
            assert who(stranger) == "demo@v2"
    run_gateway("drain", url, "--deadline", "300ms", folder=gateway.folder)
    until(lambda: who(bound) == "demo@v2", "the session's moving on")
    run_gateway("undrain", url, folder=gateway.folder)

    def comes_back() -> bool:
        with gateway.client() as stranger:
            return who(stranger) == "demo@v1"

    until(comes_back, "new work for the endpoint")
    bound.close()


def test_a_target_that_is_none_is_refused_in_one_line(gateway: Gateway) -> None:
    command = gateway_command("drain", "nobody")
    done = subprocess.run(command, cwd=gateway.folder, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (1, "nothing here is called nobody\n")


def test_the_share_of_a_drained_version_goes_to_the_others(gateway: Gateway) -> None:
    def versions(count: int) -> set[str]:
        with gateway.client() as client:
            answers = [client.get("/models/arms/v2/health/ready") for _ in range(count)]
        return {f"{answer.status_code} {answer.headers.get('x-demo-model')}" for answer in answers}

    assert versions(40) == {"200 demo@v1", "200 demo@v2"}
    run_gateway("drain", "arms@a", folder=gateway.folder)
    until(lambda: versions(5) == {"200 demo@v2"}, "the drain")
    assert versions(20) == {"200 demo@v2"}
    run_gateway("undrain", "arms@a", folder=gateway.folder)
    until(lambda: "200 demo@v1" in versions(20), "its return")
