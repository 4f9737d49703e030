"""What a reload leaves behind is gone at once: the collector of garbage comes rarely to processes that live long."""

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from yaml.nodes import Node

from gateway.control import http
from gateway.control.probe import Check, Prober, Target
from gateway.control.reload import prepare
from gateway.core.metrics import Totals
from gateway.runtime import Runtime
from tests.control.test_probe import Told, a_server, until

MODELS = "models:\n  a:\n    versions:\n      v1: {endpoints: [http://127.0.0.1:1]}\n"


@pytest.fixture(autouse=True)
def _uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive(kind: type) -> int:
    return sum(isinstance(found, kind) for found in gc.get_objects())


def test_a_reload_without_a_file_of_keys_keeps_nothing_of_the_file_that_it_read(tmp_path: Path) -> None:
    config = tmp_path / "routes.yaml"
    config.write_text(MODELS)
    before = alive(Node)
    prepare(config, None)
    assert alive(Node) == before


def test_a_connection_that_checked_an_endpoint_is_gone_when_the_endpoint_is() -> None:
    async def run() -> None:
        told = Told()
        prober = Prober(told, rng=Random(1))
        async with a_server() as server:
            prober.update([Target(server.url, Check("/", 0.02, 2.0, 1, 2, frozenset()))])
            await until(lambda: len(server.heads) > 2)
            assert alive(http._Connection) == 1
            prober.update([])
            await until(lambda: alive(http._Connection) == 0)
            await prober.close()

    asyncio.run(run())


def test_endpoints_that_are_gone_are_not_counted_any_more_and_leave_their_places_to_others() -> None:
    totals = Totals()
    for port in range(2000):
        totals.prompt_meter(f"http://127.0.0.1:{port}").tokens = 1
    work = SimpleNamespace(
        prefixes=object(), asked=7, found=2, a=0.0, speed=SimpleNamespace(each=SimpleNamespace(mean_y=0.0))
    )
    runtime: Any = SimpleNamespace(endpoints={"http://10.0.0.1": SimpleNamespace(work=work)})
    Runtime.tally(runtime, totals)
    assert {url: meter.tokens for url, meter in totals.prompts.items()} == {"http://10.0.0.1": 7}
