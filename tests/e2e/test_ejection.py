"""Endpoints that real traffic leaves out, over real sockets: what clients, status and metrics see of it."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest

from tests.e2e.harness import Gateway, served, until
from tests.e2e.harness_load import Load
from tests.e2e.harness_upstream import Connection, RawUpstream, response

SIZE = 8


class Server:
    """Answers after 20 ms, or as it is told."""

    def __init__(self) -> None:
        self.status = 200
        self.fields: list[tuple[str, str]] = []
        self.is_deaf = False  # ends every connection without an answer
        self.asked = 0
        self.lock = threading.Lock()

    def __call__(self, connection: Connection) -> None:
        while True:
            connection.read_request()
            with self.lock:
                self.asked += 1
            if self.is_deaf:
                return
            time.sleep(0.02 if self.status == 200 else 0.005)
            connection.send(response(b"x", self.status, self.fields))


@pytest.fixture
def servers() -> list[Server]:
    return [Server() for _ in range(SIZE)]


@pytest.fixture
def upstreams(servers: list[Server]) -> Iterator[list[RawUpstream]]:
    with ExitStack() as stack:
        yield [stack.enter_context(RawUpstream(server)) for server in servers]


def gateway_of(upstreams: list[RawUpstream], workers: int = 2, **options: Any) -> Gateway:
    model = served([upstream.url for upstream in upstreams], **options)
    return Gateway({"demo": model}, {"gateway": {"workers": workers}})


def endpoint(gateway: Gateway, url: str) -> dict[str, Any]:
    versions = [version for model in gateway.status()["models"] for version in model["versions"]]
    (found,) = [each for version in versions for each in version["endpoints"] if each["url"] == url]
    return dict(found)


@pytest.mark.parametrize("policy", ["least_connections", "two_choices"])  # the others in virtual time
def test_one_of_eight_that_fails_fast_costs_less_than_a_thousandth_and_with_a_retry_nothing(
    policy: str, servers: list[Server], upstreams: list[RawUpstream]
) -> None:
    retry = {"attempts": 2, "when": ["unsent", "broken", 500]}
    for options in ({"retry": {"attempts": 1}}, {"retry": retry}):
        with gateway_of(upstreams, balance={"policy": policy}, **options) as gateway, Load(gateway, rate=400) as load:
            load.run_for(1.0)
            assert load.failures == []
            servers[3].status = 500
            asked = servers[3].asked
            until(lambda: len(load.answers) >= 3000, "three thousand answers", 60.0)
            load.stop()
            failed = Counter(load.statuses)[500]
            assert failed == 0 if options["retry"] is retry else 1 <= failed <= 3 + len(gateway.pids()), load.failures
            assert servers[3].asked - asked <= 8
            assert set(load.statuses) <= {200, 500}
        servers[3].status = 200


def test_five_failures_in_a_row_eject_an_endpoint_and_status_metrics_and_log_say_so(
    servers: list[Server], upstreams: list[RawUpstream]
) -> None:
    """By a hash: it keeps asking the endpoint that its key belongs to, until that one is out."""
    balance = {"policy": "consistent_hash", "hash": {"header": "x-key"}}
    gateway = gateway_of(upstreams, auth=[], balance=balance, ejection={"time": "2s"})
    with gateway, gateway.client() as client:
        url = upstreams[3].url
        before = servers[3].asked
        key = next(n for n in range(1000) if ask(client, n) == 200 and servers[3].asked > before)
        servers[3].status = 500
        # Each over a connection of its own: whichever worker gets it.
        statuses = [ask_anew(gateway, key) for _ in range(8)]
        assert statuses == [500] * 5 + [200] * 3
        assert endpoint(gateway, url)["traffic"].startswith("out")
        labels = f'endpoint="{url}",model="demo",version="v1"'
        assert f"gateway_endpoint_ejections_total{{{labels}}} 1" in sorted_labels(gateway)
        assert f"endpoint {url}: left out for 2 s: 5 failures in a row" in gateway.output
        servers[3].status = 200
        until(lambda: ask(client, key) == 200 and servers[3].asked > before + 6, "its trial, and that it is back")
        assert not endpoint(gateway, url)["traffic"].startswith("out")


def test_an_endpoint_is_out_for_the_next_worker_too_and_without_the_controller(
    servers: list[Server], upstreams: list[RawUpstream]
) -> None:
    with gateway_of(upstreams[:2], auth=[], balance={"policy": "ip_hash"}) as gateway:
        controller = gateway.controller_pid()
        os.kill(controller, signal.SIGSTOP)
        try:
            assert {ask_anew(gateway, 0) for _ in range(4)} == {200}
            home = 0 if servers[0].asked else 1
            servers[home].status = 500
            assert Counter(ask_anew(gateway, 0) for _ in range(20)) == {500: 5, 200: 15}
        finally:
            os.kill(controller, signal.SIGCONT)


def test_a_busy_endpoint_is_left_alone_for_as_long_as_it_asks(
    servers: list[Server], upstreams: list[RawUpstream]
) -> None:
    servers[0].status, servers[0].fields = 429, [("retry-after", "30")]
    with gateway_of(upstreams[:2], auth=[]) as gateway:
        assert Counter(ask_anew(gateway, 0) for _ in range(20)) in ({429: 1, 200: 19}, {200: 20})
        until(lambda: ask_anew(gateway, 0) == 200 and servers[0].asked == 1, "one request there")
        assert endpoint(gateway, upstreams[0].url)["traffic"].startswith("busy")
        servers[1].status, servers[1].fields = 429, [("retry-after", "30")]
        assert ask_anew(gateway, 0) == 429
        assert ask_anew(gateway, 0) == 429, "all are busy: they say so themselves"


def test_the_breaker_answers_at_once_while_nothing_does_and_lets_one_request_try(
    servers: list[Server], upstreams: list[RawUpstream]
) -> None:
    for server in servers[:2]:
        server.is_deaf = True
    with gateway_of(upstreams[:2], auth=[], retry={"attempts": 1}, breaker={"failures": 6, "time": "1s"}) as gateway:
        answers = [answer_anew(gateway) for _ in range(20)]
        assert [answer.status_code for answer in answers] == [502] * 6 + [503] * 14
        assert int(answers[-1].headers["retry-after"]) == 1
        assert servers[0].asked + servers[1].asked == 6
        for server in servers[:2]:
            server.is_deaf = False
        until(lambda: ask_anew(gateway, 0) == 200, "the trial")
        until(lambda: [ask_anew(gateway, 0) for _ in range(4)] == [200] * 4, "all is well")


def test_a_reload_forgets_nothing(servers: list[Server], upstreams: list[RawUpstream]) -> None:
    with gateway_of(upstreams[:2], auth=[], balance={"policy": "round_robin"}) as gateway:
        servers[0].status = 500
        statuses = Counter(ask_anew(gateway, 0) for _ in range(10))
        assert statuses[500] <= 1
        assert gateway.reload({**gateway.config["models"], "other": served([upstreams[2].url])}) == []
        assert {ask_anew(gateway, 0) for _ in range(6)} == {200}


def test_a_successor_knows_who_is_out_and_how_often_it_was(servers: list[Server], upstreams: list[RawUpstream]) -> None:
    balance = {"policy": "ip_hash"}  # one endpoint, until it is out
    with gateway_of(upstreams[:2], auth=[], balance=balance, ejection={"time": "5m"}) as gateway:
        assert {ask_anew(gateway, 0) for _ in range(4)} == {200}
        home = 0 if servers[0].asked else 1
        servers[home].status = 500
        assert Counter(ask_anew(gateway, 0) for _ in range(8)) == {500: 5, 200: 3}
        asked = servers[home].asked
        gateway.popen.send_signal(signal.SIGUSR2)
        assert gateway.popen.wait(30) == 0
        try:
            assert {ask_anew(gateway, 0) for _ in range(8)} == {200}
            assert servers[home].asked == asked
            found = endpoint(gateway, upstreams[home].url)
            assert found["traffic"].startswith("out")
            labels = f'endpoint="{upstreams[home].url}",model="demo",version="v1"'
            assert f"gateway_endpoint_ejections_total{{{labels}}} 1" in sorted_labels(gateway)
        finally:
            os.kill(int((gateway.folder / ".gateway" / "gateway.pid").read_text()), signal.SIGTERM)
            until(lambda: not gateway.members(), "the successor's end", 20)


def ask(client: httpx2.Client, key: int) -> int:
    return int(client.get("/models/demo/x", headers={"x-key": str(key)}).status_code)


def ask_anew(gateway: Gateway, key: int) -> int:
    with gateway.client() as client:
        return ask(client, key)


def answer_anew(gateway: Gateway) -> httpx2.Response:
    with gateway.client() as client:
        return client.get("/models/demo/x")


def sorted_labels(gateway: Gateway) -> str:
    """Metrics with the labels of each sample in order."""
    lines = []
    for line in gateway.metrics().splitlines():
        name, brace, rest = line.partition("{")
        if brace:
            labels, _, value = rest.rpartition("}")
            line = f"{name}{{{','.join(sorted(labels.split(',')))}}}{value.replace('.0', '')}"
        lines.append(line)
    return "\n".join(lines)


def test_a_member_of_the_body_binds_its_requests_to_an_endpoint(
    servers: list[Server], upstreams: list[RawUpstream]
) -> None:
    balance = {"policy": "consistent_hash", "hash": {"body": "user", "fallback": {"header": "x-key"}}}
    with gateway_of(upstreams, auth=[], balance=balance) as gateway, gateway.client() as client:
        homes = set()
        for user in range(12):
            before = [server.asked for server in servers]
            for _ in range(3):
                assert client.post("/models/demo/x", json={"user": f"user {user}"}).status_code == 200
            (home,) = [n for n, server in enumerate(servers) if server.asked != before[n]]
            homes.add(home)
        assert len(homes) > 2, "users spread"
        before = [server.asked for server in servers]
        assert {ask(client, 7) for _ in range(3)} == {200}
        assert sorted(server.asked - old for server, old in zip(servers, before, strict=True)) == [0] * 7 + [3]


def test_requests_wait_while_no_endpoint_is_open_where_the_route_wants_it(
    servers: list[Server], upstreams: list[RawUpstream]
) -> None:
    servers[0].is_deaf = True
    options: dict[str, Any] = {"auth": [], "retry": {"attempts": 1}, "breaker": {"failures": 2, "time": "1s"}}
    with gateway_of(upstreams[:1], workers=1, **options, queue={"when_down": True, "timeout": "15s"}) as gateway:
        assert [ask_anew(gateway, 0) for _ in range(2)] == [502, 502]
        servers[0].is_deaf = False
        assert [ask_anew(gateway, 0) for _ in range(3)] == [200] * 3
        servers[0].is_deaf = True
        short = {"when_down": True, "timeout": "300ms"}
        model = served([upstreams[0].url], **{**options, "breaker": {"failures": 2, "time": "20s", "max_time": "1m"}})
        assert gateway.reload({"demo": {**model, "queue": short}}) == []
        assert [ask_anew(gateway, 0) for _ in range(2)] == [502, 502]
        began = time.monotonic()
        assert ask_anew(gateway, 0) == 503
        assert time.monotonic() - began >= 0.3
