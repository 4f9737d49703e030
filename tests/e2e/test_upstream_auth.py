"""What a model server is shown of credentials: nothing, its own key, or what the caller sent."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import DemoModel, Gateway, served, until

SECRET, NEXT, FROM_ENV = "sk-upstream-one-4711", "sk-upstream-two-4712", "sk-upstream-env-4713"


@pytest.fixture(scope="module")
def demo() -> Iterator[DemoModel]:
    with DemoModel() as demo:
        yield demo


def seen(gateway: Gateway, model: str, **headers: str) -> dict[str, Any]:
    """The headers that reach the model server."""
    with gateway.client(headers={"x-api-key": gateway.key, **headers}) as client:
        answer = client.get(f"/models/{model}/echo")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = dict(answer.json()["headers"])
        return found


def test_the_model_server_is_shown_its_own_key_and_a_new_one_as_soon_as_it_is_there(
    demo: DemoModel, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text(f"{SECRET}\n")
    rules = {"request": {"remove": ["authorization"], "set": {"authorization": "no"}}}
    models = {
        "filed": served([demo.url], upstream_auth={"value_file": str(file)}, headers=rules),
        "env": served([demo.url], upstream_auth={"header": "api_key", "value_env": "UPSTREAM_KEY", "scheme": ""}),
        "public": served([demo.url], auth=[], upstream_auth={"value_file": str(file)}),
        "plain": served([demo.url]),
        "passed": served([demo.url], pass_credentials=True),
    }
    with Gateway(models, env={"UPSTREAM_KEY": FROM_ENV}) as gateway:
        assert seen(gateway, "filed")["authorization"] == f"Bearer {SECRET}"
        assert seen(gateway, "public", authorization="Bearer of-the-caller")["authorization"] == f"Bearer {SECRET}"
        shown = seen(gateway, "env")
        assert (shown["api_key"], "x-api-key" in shown) == (FROM_ENV, False)
        assert {"authorization", "x-api-key", "api-key"}.isdisjoint(seen(gateway, "plain"))
        assert seen(gateway, "passed")["x-api-key"] == gateway.key
        file.write_text(NEXT)
        until(lambda: seen(gateway, "filed")["authorization"] == f"Bearer {NEXT}", "the new key")
        file.write_text("two\nlines")
        (problem,) = [each for each in gateway.reload() if "filed" in each]
        assert "models.filed.upstream_auth" in problem
        assert seen(gateway, "filed")["authorization"] == f"Bearer {NEXT}", "the last good one"
        told = gateway.output + gateway.metrics() + str(gateway.status()) + problem
        assert not any(secret in told for secret in (SECRET, NEXT, FROM_ENV, "two\nlines", gateway.key))


def test_a_key_that_is_not_there_is_an_error_at_the_start(demo: DemoModel) -> None:
    models = {"m": served([demo.url], upstream_auth={"value_env": "NO_SUCH_KEY"})}
    with Gateway(models, wait=False) as gateway:
        assert gateway.popen.wait(20) == 1
        assert "models.m.upstream_auth: the variable NO_SUCH_KEY is not set" in gateway.output
