"""A gateway with too much to do refuses some of what is new, at the door, and nothing of what is under way."""

import threading
from collections.abc import Iterator

import httpx2
import pytest

from tests.e2e.harness import Gateway, served, temporary_folder, until
from tests.e2e.harness_upstream import RawUpstream, answering, streaming

BLOCKS = '''
import time


class Blocks:
    """Holds up the whole worker, as a large computation would."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        time.sleep(0.4)
        await self.app(scope, receive, send)
'''


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    folder = temporary_folder("gateway-")
    (folder / "plugins").mkdir()
    (folder / "plugins" / "blocks.py").write_text(BLOCKS)
    with RawUpstream(answering()) as upstream, RawUpstream(streaming([b"1"] * 40, every=0.1)) as stream:
        models = {
            "plain": served([upstream.url], auth=[]),
            "stream": served([stream.url], auth=[]),
            "blocks": served([upstream.url], auth=[], plugins=[{"use": "plugins.blocks.Blocks"}]),
        }
        settings = {"gateway": {"overload": {"lag": "100ms"}}}
        with Gateway(models, settings, folder=folder) as gateway:
            yield gateway


def test_late_timers_are_answered_503_at_the_door_until_they_are_on_time(gateway: Gateway) -> None:
    stop = threading.Event()
    answers: list[httpx2.Response] = []

    def press() -> None:
        with gateway.client(headers={}) as client:
            while not stop.is_set():
                answers.append(client.get("/models/blocks/x"))

    def refused() -> list[httpx2.Response]:
        return [answer for answer in answers if answer.status_code == 503]

    pressing = [threading.Thread(target=press) for _ in range(4)]
    with gateway.raw() as under_way:
        under_way.send(b"GET /models/stream/x HTTP/1.1\r\nHost: a\r\n\r\n")
        under_way.read_until(b"data: 1")
        for thread in pressing:
            thread.start()
        try:
            first = until(refused, "a refusal", 30.0)[0]
        finally:
            stop.set()
            for thread in pressing:
                thread.join()
        assert under_way.read_until(b"0\r\n\r\n").count(b"data: 1") == 39, "what was under way goes on"
    assert first.json()["error"]["code"] == "overloaded"
    assert 1 <= int(first.headers["retry-after"]) <= 5
    assert "overload begins" in gateway.output
    until(lambda: "overload is over" in gateway.output, "the end of it")
    with gateway.client(headers={}) as client:
        assert {client.get("/models/plain/x").status_code for _ in range(20)} == {200}


def test_a_worker_near_its_limit_of_memory_refuses_most_and_not_all() -> None:
    with RawUpstream(answering()) as upstream:
        models = {"plain": served([upstream.url], auth=[])}
        with Gateway(models, {"gateway": {"overload": {"memory": "1MiB"}}}) as gateway:
            until(lambda: "overload begins" in gateway.output, "the overload")
            with gateway.client(headers={}) as client:
                statuses = [client.get("/models/plain/x").status_code for _ in range(300)]
            assert statuses.count(503) > 200
            assert statuses.count(200) > 0, "0.95 ** 300 is 2e-7"
