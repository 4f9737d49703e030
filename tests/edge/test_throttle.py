"""Throttle: whose bucket, what is told, and that nothing is taken by a refusal."""

import asyncio
import logging
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from gateway.config.settings import LimitSettings
from gateway.edge import caller as caller_module
from gateway.edge.caller import network_of
from gateway.edge.fields import duration
from gateway.edge.throttle import Throttle
from gateway.errors import StoreUnavailable, TooManyRequests
from gateway.model import ANONYMOUS, Exchange, Header, Principal
from gateway.stores.memory import MemoryBuckets

SECOND = 10**9


class Clock:
    def __init__(self) -> None:
        self.now = 10**15

    def __call__(self) -> int:
        return self.now


class Dice(Random):
    """Always throws the same."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def random(self) -> float:
        return self.value


class Upstream:
    """Counts the requests that came through."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.count += 1


def key(name: str) -> Principal:
    return Principal(id=name, name=name, kind="key")


class Caller:
    """Sends requests through a Throttle over a store of its own."""

    def __init__(self, *limits: dict[str, Any], store: Any = None, jitter: float = 0.0, model: str = "iris") -> None:
        self.clock = Clock()
        self.upstream = Upstream()
        self.store = store or MemoryBuckets(keys=1000)
        self.throttle = Throttle(
            self.upstream,
            limits=[LimitSettings(**each) for each in limits],
            model=model,
            store=self.store,
            clock=self.clock,
            rng=Dice(jitter),
        )

    def exchange(
        self, principal: Principal = ANONYMOUS, ip: str = "192.0.2.1", headers: Sequence[Header] = ()
    ) -> tuple[Exchange, TooManyRequests | None]:
        exchange = Exchange("r1", 0.0, ip)
        exchange.principal = principal
        scope = {"type": "http", "exchange": exchange, "headers": list(headers)}
        try:
            asyncio.run(self.throttle(scope, _unused, _unused))
        except TooManyRequests as error:
            return exchange, error
        return exchange, None

    def admits(self, principal: Principal = ANONYMOUS, ip: str = "192.0.2.1", headers: Sequence[Header] = ()) -> bool:
        return self.exchange(principal, ip, headers)[1] is None


async def _unused(*_: Any) -> Any:
    raise AssertionError("a layer that only admits neither receives nor sends")


def test_each_key_has_a_bucket_of_its_own() -> None:
    caller = Caller({"rate": "60/minute", "burst": 2})
    assert [caller.admits(key("a")) for _ in range(3)] == [True, True, False]
    assert caller.admits(key("b"))
    caller.clock.now += SECOND
    assert [caller.admits(key("a")) for _ in range(2)] == [True, False]
    assert caller.upstream.count == 4


def test_a_caller_without_a_key_has_a_bucket_for_its_address() -> None:
    caller = Caller({"rate": "1/minute"})
    assert [caller.admits(ip="192.0.2.1"), caller.admits(ip="192.0.2.2")] == [True, True]
    assert not caller.admits(ip="192.0.2.1")


def test_per_principal_counts_all_anonymous_callers_as_one() -> None:
    caller = Caller({"rate": "1/minute", "per": "principal"})
    assert [caller.admits(ip="192.0.2.1"), caller.admits(ip="192.0.2.2")] == [True, False]
    assert caller.admits(key("a"))


def test_per_ip_counts_the_address_whoever_calls() -> None:
    caller = Caller({"rate": "1/minute", "per": "ip"})
    assert [caller.admits(key("a")), caller.admits(key("b"))] == [True, False]
    assert caller.admits(key("a"), ip="192.0.2.2")


def test_the_addresses_of_one_ipv6_network_are_one_caller() -> None:
    caller = Caller({"rate": "1/minute", "per": "ip"})
    assert caller.admits(ip="2001:db8:0:1::1")
    assert not caller.admits(ip="2001:db8:0:1:ffff::2")
    assert caller.admits(ip="2001:db8:0:2::1")
    assert network_of("ip:::ffff:192.0.2.1") == "ip:192.0.2.1" == network_of("ip:192.0.2.1")


def test_per_model_has_one_bucket_for_all() -> None:
    caller = Caller({"rate": "1/minute", "per": "model"})
    assert [caller.admits(key("a"), "192.0.2.1"), caller.admits(key("b"), "192.0.2.2")] == [True, False]


def test_per_header_counts_the_value_and_those_without_it_together() -> None:
    caller = Caller({"rate": "1/minute", "per": "header:X-Team"})
    assert caller.admits(headers=[(b"x-team", b"red")])
    assert not caller.admits(key("other"), headers=[(b"x-team", b"red")])
    assert caller.admits(headers=[(b"x-team", b"blue")])
    assert [caller.admits(), caller.admits()] == [True, False]
    long = [b"x" * 5000 + end for end in (b"1", b"2")]
    assert all(caller.admits(headers=[(b"x-team", value)]) for value in long)
    assert not any(caller.admits(headers=[(b"x-team", value)]) for value in long)
    own = caller.throttle.bundles[0].quotas[0].place.number
    assert max(len(who) for number, who in caller_module._KNOWN if number == own) <= 64


def test_limits_of_one_rate_for_different_callers_are_different_limits() -> None:
    caller = Caller({"rate": "1/minute"}, {"rate": "1/minute", "per": "header:x-team"})
    assert caller.admits(key("a"), headers=[(b"x-team", b"a")])
    assert not caller.admits(key("b"), headers=[(b"x-team", b"a")])
    assert not caller.admits(key("a"), headers=[(b"x-team", b"b")])
    assert caller.admits(key("b"), headers=[(b"x-team", b"b")])


def test_models_do_not_share_buckets() -> None:
    store = MemoryBuckets(keys=1000)
    first, second = (Caller({"rate": "1/minute"}, store=store, model=model) for model in ("iris", "llama"))
    assert [first.admits(key("a")), second.admits(key("a")), first.admits(key("a"))] == [True, True, False]


def test_a_limit_that_a_reload_leaves_as_it_is_keeps_its_buckets() -> None:
    store = MemoryBuckets(keys=1000)
    before = Caller({"rate": "1/minute"}, store=store)
    assert before.admits(key("a"))
    after = Caller({"rate": "5/hour", "per": "ip"}, {"rate": "1/minute"}, store=store)
    assert not after.admits(key("a"))


def test_a_request_that_one_limit_refuses_is_charged_to_none() -> None:
    caller = Caller({"rate": "10/minute", "per": "key"}, {"rate": "1/minute", "per": "model"})
    assert caller.admits(key("a"))
    assert not any(caller.admits(key("b")) for _ in range(20))
    caller.clock.now += 60 * SECOND
    exchange, _ = caller.exchange(key("b"))
    assert (b"ratelimit", b'"requests-1";r=9;t=6, "requests-2";r=0;t=60') in exchange.answer_headers


def test_the_same_limit_twice_is_one_limit() -> None:
    caller = Caller({"rate": "2/minute"}, {"rate": "2/minute"})
    assert [caller.admits(key("a")) for _ in range(3)] == [True, True, False]


def test_an_admitted_request_is_told_the_policy_and_what_is_left() -> None:
    caller = Caller({"rate": "100/minute", "burst": 20})
    exchange, _ = caller.exchange(key("a"))
    assert exchange.answer_headers == [
        (b"ratelimit-policy", b'"default";q=100;w=60'),
        (b"ratelimit", b'"default";r=19;t=1'),
        (b"x-ratelimit-limit-requests", b"20"),
        (b"x-ratelimit-remaining-requests", b"19"),
        (b"x-ratelimit-reset-requests", b"600ms"),
    ]
    assert exchange.limit_verdict == "admitted"


def test_of_several_limits_the_tightest_is_told_to_clients_that_know_one() -> None:
    caller = Caller({"rate": "100/minute", "burst": 20}, {"rate": "5/hour", "per": "model"})
    exchange, _ = caller.exchange(key("a"))
    assert exchange.answer_headers == [
        (b"ratelimit-policy", b'"requests-1";q=100;w=60, "requests-2";q=5;w=3600'),
        (b"ratelimit", b'"requests-1";r=19;t=1, "requests-2";r=4;t=720'),
        (b"x-ratelimit-limit-requests", b"5"),
        (b"x-ratelimit-remaining-requests", b"4"),
        (b"x-ratelimit-reset-requests", b"12m0s"),
    ]


def test_a_refused_request_is_told_when_to_come_back() -> None:
    caller = Caller({"rate": "6/minute", "burst": 1})
    caller.exchange(key("a"))
    caller.clock.now += SECOND // 2
    exchange, error = caller.exchange(key("a"))
    assert error is not None
    assert error.headers == [
        (b"retry-after", b"10"),
        (b"ratelimit-policy", b'"default";q=6;w=60'),
        (b"ratelimit", b'"default";r=0;t=10'),
        (b"x-ratelimit-limit-requests", b"1"),
        (b"x-ratelimit-remaining-requests", b"0"),
        (b"x-ratelimit-reset-requests", b"10s"),
    ]
    assert "6 per 1 minute" in str(error)
    assert exchange.answer_headers == []
    assert exchange.limit_verdict == "limited"


@pytest.mark.parametrize(("jitter", "after"), [(0.0, b"100"), (0.5, b"105"), (0.9999, b"110")])
def test_retry_after_has_a_jitter_of_a_tenth_and_is_never_too_short(jitter: float, after: bytes) -> None:
    caller = Caller({"rate": "36/hour", "burst": 1}, jitter=jitter)
    caller.exchange(key("a"))
    _, error = caller.exchange(key("a"))
    assert error is not None
    assert error.headers[0] == (b"retry-after", after)
    caller.clock.now += int(after) * SECOND
    assert caller.admits(key("a"))


def test_retry_after_is_at_least_a_second() -> None:
    caller = Caller({"rate": "1000/second", "burst": 1})
    caller.exchange(key("a"))
    _, error = caller.exchange(key("a"))
    assert error is not None
    assert error.headers[0] == (b"retry-after", b"1")


def test_a_refusal_names_the_limit_that_takes_longest() -> None:
    caller = Caller({"rate": "1/second"}, {"rate": "1/minute", "per": "model"})
    caller.exchange(key("a"))
    _, error = caller.exchange(key("a"))
    assert error is not None
    assert "1 per 1 minute" in str(error)
    assert error.headers[:3] == [
        (b"retry-after", b"60"),
        (b"ratelimit-policy", b'"requests-1";q=1;w=1, "requests-2";q=1;w=60'),
        (b"ratelimit", b'"requests-1";r=0;t=1, "requests-2";r=0;t=60'),
    ]


def test_a_store_on_this_machine_is_not_awaited() -> None:
    """The layer runs to the application without once giving up control."""
    caller = Caller({"rate": "1/minute"}, {"rate": "2/minute", "per": "ip"})
    scope = {"type": "http", "exchange": Exchange("r1", 0.0, "192.0.2.1"), "headers": []}
    with pytest.raises(StopIteration):
        caller.throttle(scope, _unused, _unused).send(None)
    assert caller.upstream.count == 1


def test_the_callers_that_all_limits_remember_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[tuple[int, str], None] = {(-1, f"old{i}"): None for i in range(65_535)}
    monkeypatch.setattr(caller_module, "_KNOWN", known)
    for count in (65_536, 1):
        assert Caller({"rate": "1/minute"}).admits(key("new"))
        assert len(known) == count


DURATIONS = {
    0: b"0s",
    1: b"1ms",
    120_000_000: b"120ms",
    SECOND: b"1s",
    SECOND + 1: b"2s",
    59 * SECOND: b"59s",
    60 * SECOND: b"1m0s",
    3605 * SECOND: b"1h0m5s",
    90_000 * SECOND: b"25h0m0s",
}


@pytest.mark.parametrize(("nanoseconds", "text"), DURATIONS.items())
def test_durations_are_written_as_clients_parse_them(nanoseconds: int, text: bytes) -> None:
    assert duration(nanoseconds) == text


def test_a_dry_run_admits_tells_nobody_but_the_operator_and_counts(caplog: pytest.LogCaptureFixture) -> None:
    caller = Caller({"rate": "2/minute", "dry_run": True}, {"rate": "4/minute", "per": "model"})
    verdicts, answers = [], []
    with caplog.at_level(logging.WARNING, "gateway.limits"):
        for _ in range(4):
            exchange, error = caller.exchange(key("a"))
            assert error is None
            verdicts.append(exchange.limit_verdict)
            answers.append(dict(exchange.answer_headers))
        assert not caller.admits(key("a"))
    assert verdicts == ["admitted", "admitted", "would_limit", "would_limit"]
    assert [answer[b"ratelimit-policy"] for answer in answers] == [b'"default";q=4;w=60'] * 4
    assert [record.getMessage().split(" (")[-1] for record in caplog.records] == ["1 requests)"]


def test_a_dry_run_is_not_charged_by_what_another_limit_refuses() -> None:
    caller = Caller({"rate": "2/minute", "dry_run": True}, {"rate": "1/minute", "per": "header:x-team"})
    assert caller.admits(key("a"), headers=[(b"x-team", b"red")])
    assert not any(caller.admits(key("a"), headers=[(b"x-team", b"red")]) for _ in range(5))
    exchange, _ = caller.exchange(key("a"), headers=[(b"x-team", b"blue")])
    assert exchange.limit_verdict == "admitted"


def test_a_dry_run_alone_is_possible() -> None:
    caller = Caller({"rate": "1/minute", "dry_run": True})
    exchanges = [caller.exchange(key("a"))[0] for _ in range(2)]
    assert [(each.limit_verdict, each.answer_headers) for each in exchanges] == [("admitted", []), ("would_limit", [])]


class Away:
    """A remote store that cannot be reached."""

    is_remote = True

    def __init__(self) -> None:
        self.local = MemoryBuckets(keys=1000)

    def place(self, key: str, tag: str) -> str:
        return key

    async def take(self, *_: Any) -> list[int]:
        raise StoreUnavailable


def test_while_the_store_is_away_this_machine_counts_by_itself() -> None:
    caller = Caller({"rate": "2/minute"}, {"rate": "1/hour", "per": "model", "on_store_error": "open"}, store=Away())
    assert [caller.admits(key("a")) for _ in range(3)] == [True, True, False]
    exchange, _ = caller.exchange(key("b"))
    assert exchange.limit_verdict == "store_down"
    assert (b"ratelimit", b'"requests-1";r=1;t=30, "requests-2";r=1;t=0') in exchange.answer_headers


def test_a_limit_that_opens_admits_everything_while_the_store_is_away() -> None:
    caller = Caller({"rate": "1/hour", "on_store_error": "open"}, store=Away())
    assert all(caller.admits(key("a")) for _ in range(5))


def test_a_limit_that_closes_answers_503_while_the_store_is_away() -> None:
    caller = Caller({"rate": "1/hour"}, {"rate": "1/hour", "per": "ip", "on_store_error": "closed"}, store=Away())
    with pytest.raises(StoreUnavailable):
        caller.exchange(key("a"))
    assert caller.upstream.count == 0
