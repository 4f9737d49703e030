"""What is answered from the cache, what never is, and who waits for whom."""

import asyncio
from collections.abc import Callable, Sequence
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ClientLeft, UpstreamError
from gateway.model import Exchange, Header, Principal
from plugins import response_cache
from plugins.answers import Answer, Freshness, Store
from plugins.response_cache import Landing, ResponseCache
from tests.plugins.driver import ALICE, BOB, Model, Reply, an_exchange, ask, asked

JSON: tuple[Header, ...] = ((b"content-type", b"application/json"),)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def cached(model: Any, **options: Any) -> tuple[ResponseCache, Clock]:
    cache = ResponseCache(model, **{"ttl": "1m", **options})
    cache.clock = clock = Clock()
    return cache, clock


def answered(headers: Sequence[Header] = JSON, status: int = 200, **options: Any) -> tuple[Model, ResponseCache, Clock]:
    model = Model(headers, status)
    cache, clock = cached(model, **options)
    return model, cache, clock


# --- hits -------------------------------------------------------------------------------------------------------------


def test_an_equal_request_is_answered_without_the_model() -> None:
    model, cache, clock = answered()
    first = asked(cache, b"{}")
    clock.now += 7.9
    second = asked(cache, b"{}")
    assert (first.body, first.get("x-cache"), first.get("age")) == (b"1:{}", "miss", None)
    assert (second.body, second.get("x-cache"), second.get("age")) == (b"1:{}", "hit", "7")
    assert (second.status, second.get("content-type"), second.get("content-length")) == (200, "application/json", "4")
    assert second.is_complete
    assert model.requests == [b"{}"]


def test_an_answer_is_given_until_its_ttl_is_over() -> None:
    model, cache, clock = answered(ttl=10)
    asked(cache)
    clock.now += 9.9
    assert asked(cache).get("x-cache") == "hit"
    clock.now += 0.1
    assert asked(cache).get("x-cache") == "miss"
    assert len(model.requests) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"body": b"{ }"},
        {"method": "GET"},
        {"path": "/v1/completions"},
        {"query_string": b"a=1"},
        {"headers": {"accept": "text/plain"}},
        {"headers": {"content-type": "text/plain"}},
        {"headers": {"x-tenant": "a"}},
        {"headers": {"cookie": "user=1"}},
        {"headers": {"authorization": "Bearer 1"}},
        {"headers": [(b"host", b"other.example")]},
        {"exchange": an_exchange(ALICE)},
        {"exchange": an_exchange(model="other")},
        {"exchange": an_exchange(version="v2")},
        {"exchange": an_exchange(Principal(id="anonymous", name="a", kind="jwt", headers=((b"x-user", b"1"),)))},
    ],
)
def test_a_request_that_differs_is_another_request(other: dict[str, Any]) -> None:
    model, cache, _ = answered(vary=["X-Tenant"])
    asked(cache, b"{}")
    assert asked(cache, **{"body": b"{}", **other}).get("x-cache") == "miss"
    assert asked(cache, b"{}").get("x-cache") == "hit"
    assert len(model.requests) == 2


def test_the_same_request_is_found_again_whatever_headers_do_not_matter() -> None:
    _, cache, _ = answered()
    asked(cache, b"{}", {"user-agent": "a", "x-tenant": "a"})
    assert asked(cache, b"{}", {"x-tenant": "b", "traceparent": "1"}).get("x-cache") == "hit"


VALUES = st.lists(st.sampled_from([b"", b"a", b"aa", b"1:a"]), min_size=2, max_size=2)


@given(VALUES, VALUES)
def test_no_field_of_the_key_can_pose_as_another(one: list[bytes], two: list[bytes]) -> None:
    cache, _ = cached(Model(), vary=["x-a", "x-aa"])  # neighbours in the key

    def key(values: list[bytes]) -> bytes:
        headers = [(b"x-a", values[0]), (b"x-aa", values[1])]
        scope = {"method": "GET", "path": "/", "query_string": b"", "headers": headers}
        return cache._key(scope, an_exchange(), b"")

    assert (key(one) == key(two)) is (one == two)


def test_nobody_gets_anothers_answer() -> None:
    model, cache, _ = answered()
    asked(cache, exchange=an_exchange(ALICE))
    assert asked(cache, exchange=an_exchange(BOB)).body == b"2:"
    assert asked(cache, exchange=an_exchange(ALICE)).body == b"1:"
    assert len(model.requests) == 2


def test_everybody_gets_anothers_answer_where_the_operator_says_so() -> None:
    model, cache, _ = answered(shared=True)
    asked(cache, b"", {"authorization": "Bearer a"}, an_exchange(ALICE))
    assert asked(cache, b"", {"authorization": "Bearer b", "cookie": "c=d"}, an_exchange(BOB)).get("x-cache") == "hit"
    assert len(model.requests) == 1


def test_nobody_gets_an_answer_of_a_version_that_he_may_not_call_though_answers_are_shared() -> None:
    _, cache, _ = answered(shared=True)
    all_versions, one = an_exchange(ALICE), an_exchange(BOB)
    one.allowed_versions = ("v1",)
    asked(cache, exchange=all_versions)
    assert asked(cache, exchange=one).get("x-cache") == "miss"
    narrowed = an_exchange(ALICE)
    narrowed.allowed_versions = ("v1",)
    assert asked(cache, exchange=narrowed).body == b"2:", "with the others of the same versions"


def test_an_answer_of_another_model_in_this_ones_place_is_not_kept() -> None:
    model, cache, _ = answered(shared=True)
    instead = an_exchange(ALICE)
    instead.note().fallback_from = "iris@v1"
    asked(cache, exchange=instead)
    assert asked(cache, exchange=an_exchange(BOB)).get("x-cache") == "miss"
    assert len(model.requests) == 2


def test_what_the_gateway_says_of_one_exchange_is_not_said_of_the_next() -> None:
    _, cache, _ = answered((*JSON, (b"x-request-id", b"upstream's"), (b"server", b"model")))
    first, second = an_exchange(), an_exchange()
    first.answer_headers = [(b"x-request-id", b"1"), (b"set-cookie", b"gw_session=1"), (b"ratelimit", b"9")]
    second.answer_headers = [(b"x-request-id", b"2"), (b"ratelimit", b"8")]
    asked(cache, exchange=first)
    hit = asked(cache, exchange=second)
    assert (hit.get("x-cache"), hit.get("ratelimit"), hit.get("server")) == ("hit", "8", "model")
    assert (hit.all("x-request-id"), hit.all("set-cookie")) == (["2"], [])


# --- what is never kept -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        (b"cache-control", b"no-store"),
        (b"cache-control", b"No-Cache"),
        (b"cache-control", b"max-age=60, private"),
        (b"cache-control", b'private="x-user"'),
        (b"cache-control", b"max-age=0"),
        (b"cache-control", b"max-age=soon"),
        (b"cache-control", b"s-maxage=0, max-age=60"),
        (b"expires", b"0"),
        (b"expires", b"Thu, 01 Jan 1970 00:00:00 GMT"),
        (b"set-cookie", b"a=b"),
        (b"vary", b"*"),
        (b"vary", b"Accept, X-Other"),
        (b"content-length", b"999"),
        (b"age", b"60"),
    ],
)
def test_an_answer_that_must_not_be_kept_is_not(header: Header) -> None:
    _, cache, _ = answered((*JSON, header))
    asked(cache)
    again = asked(cache)
    assert (again.get("x-cache"), again.body) == ("miss", b"2:")
    assert not cache.store.answers
    assert not cache.flights


@pytest.mark.parametrize("status", [201, 204, 206, 301, 400, 404, 429, 500, 503])
def test_only_success_is_kept(status: int) -> None:
    _, cache, _ = answered(status=status)
    asked(cache)
    again = asked(cache)
    assert (again.status, again.get("x-cache")) == (status, "miss")


@pytest.mark.parametrize(
    "header",
    [(b"vary", b"Accept-Encoding"), (b"vary", b"x-tenant"), (b"cache-control", b"public"), (b"content-length", b"2")],
)
def test_an_answer_that_may_be_kept_is(header: Header) -> None:
    _, cache, _ = answered((*JSON, header), vary=["x-tenant"])
    asked(cache)
    assert asked(cache).get("x-cache") == "hit"


@pytest.mark.parametrize(
    "header",
    [
        {"cache-control": "no-store"},
        {"range": "bytes=0-1"},
        {"if-none-match": '"a"'},
        {"if-modified-since": "Thu, 01 Jan 1970 00:00:00 GMT"},
    ],
)
def test_a_request_that_the_cache_must_leave_alone_passes_untouched(header: dict[str, str]) -> None:
    model, cache, _ = answered()
    asked(cache)
    assert asked(cache, b"", header).get("x-cache") is None
    assert asked(cache, b"", header).body == b"3:"
    assert asked(cache).body == b"1:"
    assert len(model.requests) == 3


@pytest.mark.parametrize("scope", [{"method": "PUT"}, {"method": "HEAD"}, {"method": "DELETE"}])
def test_methods_that_are_not_chosen_pass(scope: dict[str, Any]) -> None:
    _, cache, _ = answered()
    assert [asked(cache, **scope).get("x-cache") for _ in range(2)] == [None, None]
    _, cache, _ = answered(methods=["GET"])
    assert [asked(cache).get("x-cache") for _ in range(2)] == [None, None]


def test_before_the_route_is_known_nothing_is_answered_from_the_cache() -> None:
    _, cache, _ = answered()
    replies = [asked(cache, exchange=Exchange("r", 0.0, "192.0.2.1")) for _ in range(2)]
    assert [reply.body for reply in replies] == [b"1:", b"2:"]


# --- freshness --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "lifetime"),
    [
        ([], 60.0),
        ([(b"cache-control", b"max-age=5")], 5.0),
        ([(b"cache-control", b"max-age=5, s-maxage=7")], 7.0),
        ([(b"cache-control", b"public"), (b"cache-control", b'MAX-AGE="9"')], 9.0),
        ([(b"cache-control", b"max-age=5"), (b"age", b"2")], 3.0),
        ([(b"cache-control", b"max-age=-5")], 0.0),
        ([(b"date", formatdate(1000.0).encode()), (b"expires", formatdate(1030.0).encode())], 30.0),
        ([(b"cache-control", b"max-age=5"), (b"expires", b"0")], 5.0),
        ([(b"expires", b"0")], 0.0),
        ([(b"age", b"7")], 53.0),
    ],
)
def test_how_long_an_answer_may_be_kept(headers: list[Header], lifetime: float) -> None:
    assert Freshness(headers).lifetime(60.0) == lifetime


def test_the_answers_own_max_age_makes_its_time_shorter_and_never_longer() -> None:
    for max_age, seconds, expected in [(5, 4.9, "hit"), (5, 5, "miss"), (500, 59.9, "hit"), (500, 60, "miss")]:
        _, cache, clock = answered((*JSON, (b"cache-control", b"max-age=%d" % max_age)))
        asked(cache)
        clock.now += seconds
        assert asked(cache).get("x-cache") == expected


def test_an_answer_that_was_old_when_it_came_stays_old() -> None:
    _, cache, clock = answered((*JSON, (b"age", b"20"), (b"cache-control", b"max-age=50")))
    assert asked(cache).get("age") == "20"
    clock.now += 5
    assert asked(cache).get("age") == "25"
    clock.now += 25
    assert asked(cache).get("x-cache") == "miss"


def test_a_request_may_want_a_younger_answer() -> None:
    model, cache, clock = answered()
    asked(cache)
    clock.now += 10
    assert asked(cache, b"", {"cache-control": "max-age=10"}).body == b"1:"
    assert asked(cache, b"", {"cache-control": "max-age=9"}).body == b"2:"
    clock.now += 1
    assert asked(cache).body == b"2:", "the newer answer has taken the older one's place"
    assert asked(cache, b"", {"cache-control": "max-age=oops"}).body == b"3:"
    assert len(model.requests) == 3


def test_no_cache_asks_the_model_and_keeps_its_answer() -> None:
    _, cache, _ = answered()
    asked(cache)
    fresh = asked(cache, b"", {"cache-control": "no-cache"})
    assert (fresh.body, fresh.get("x-cache")) == (b"2:", "miss")
    assert asked(cache).body == b"2:"


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_a_body_or_an_answer_beyond_the_bound_passes_whole_and_is_not_kept() -> None:
    model, cache, _ = answered(max_entry_bytes=100)
    assert asked(cache, b"x" * 101).body == b"1:" + b"x" * 101
    assert asked(cache, b"x" * 101).get("x-cache") is None
    assert asked(cache, b"x" * 100).get("x-cache") == "miss"
    assert asked(cache, b"x" * 100).body == b"4:" + b"x" * 100, "the answer is two bytes longer"
    assert not cache.store.answers
    assert len(model.requests) == 4


def test_the_least_recently_used_goes_first() -> None:
    _, cache, _ = answered()
    asked(cache, b"a")
    cache.store.max_bytes = cache.store.size * 2
    asked(cache, b"b")
    assert asked(cache, b"a").get("x-cache") == "hit"
    asked(cache, b"c")
    assert [asked(cache, body).get("x-cache") for body in (b"a", b"c")] == ["hit", "hit"]
    assert asked(cache, b"b").get("x-cache") == "miss"


@given(
    st.lists(
        st.tuples(st.sampled_from(b"abcdef"), st.integers(0, 3000), st.floats(0.1, 9), st.sampled_from(["put", "get"])),
        max_size=40,
    )
)
def test_the_store_counts_right_and_never_holds_more_than_its_bound(steps: list[tuple[int, int, float, str]]) -> None:
    store, now = Store(5000), 0.0
    for key, size, seconds, deed in steps:
        now += seconds / 4
        if deed == "put":
            store.put(bytes([key]), Answer([(b"a", b"b")], b"x" * size, now, now + seconds))
        else:
            found = store.get(bytes([key]), now)
            assert found is None or found.expires > now
        assert store.size == sum(answer.size for answer in store.answers.values()) <= 5000


def test_an_answer_larger_than_the_whole_store_costs_nobody_their_place() -> None:
    store = Store(5000)
    store.put(b"a", Answer([], b"x", 0.0, 9.0))
    store.put(b"b", Answer([], b"x" * 5000, 0.0, 9.0))
    assert list(store.answers) == [b"a"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ttl": 0}, "`ttl`"),
        ({"ttl": "soon"}, "is not a duration"),
        ({"max_bytes": "1kB", "max_entry_bytes": "2kB"}, "`max_entry_bytes`"),
        ({"max_entry_bytes": 0}, "`max_entry_bytes`"),
        ({"methods": ["HEAD"]}, "`methods`"),
        ({"methods": []}, "`methods`"),
        ({"methods": "GET"}, "`methods`"),
        ({"vary": "accept"}, "`vary`"),
        ({"vary": [1]}, "`vary`"),
        ({"shared": "yes"}, "`shared`"),
    ],
)
def test_an_option_that_means_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as refused:
        ResponseCache(Model(), **{"ttl": 1, **options})
    assert message in str(refused.value)


# --- equal requests at the same time ----------------------------------------------------------------------------------


class Slow:
    """A model that answers when the test lets it, request by request."""

    def __init__(self, headers: Sequence[Header] = JSON) -> None:
        self.headers = headers
        self.gates: list[asyncio.Future[Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        gate = asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        number = len(self.gates)
        await send({"type": "http.response.start", "status": 200, "headers": list(self.headers)})
        await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
        await gate
        await send({"type": "http.response.body", "body": b".", "more_body": False})


async def settled(condition: Callable[[], bool]) -> None:
    """Let everything run that can, until it is so."""
    for _ in range(100):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


def together(scenario: Callable[[ResponseCache, Slow], Any], headers: Sequence[Header] = JSON, **options: Any) -> None:
    async def run() -> None:
        model = Slow(headers)
        cache, _ = cached(model, **options)
        await scenario(cache, model)
        assert not cache.flights

    asyncio.run(run())


def waiting(cache: ResponseCache) -> int:
    return sum(len(flight.waiting) for flight in cache.flights.values())


def several(cache: ResponseCache, count: int, **options: Any) -> list["asyncio.Task[Reply]"]:
    return [asyncio.ensure_future(ask(cache, b"{}", **options)) for _ in range(count)]


def test_equal_requests_at_the_same_time_cost_the_model_one() -> None:
    async def scenario(cache: ResponseCache, model: Slow) -> None:
        tasks = several(cache, 5)
        await settled(lambda: waiting(cache) == 4)
        model.gates[0].set_result(None)
        replies = await asyncio.gather(*tasks)
        assert [reply.body for reply in replies] == [b"1."] * 5
        assert [reply.get("x-cache") for reply in replies] == ["miss"] + ["hit"] * 4
        assert len(model.gates) == 1

    together(scenario)


def test_different_requests_do_not_wait_for_each_other() -> None:
    async def scenario(cache: ResponseCache, model: Slow) -> None:
        tasks = [asyncio.ensure_future(ask(cache, body)) for body in (b"a", b"b")]
        await settled(lambda: len(model.gates) == 2)
        for gate in model.gates:
            gate.set_result(None)
        assert {reply.body for reply in await asyncio.gather(*tasks)} == {b"1.", b"2."}

    together(scenario)


@pytest.mark.parametrize("how", ["cancelled", "raises", "silent"])
def test_the_client_that_asked_first_may_leave(how: str) -> None:
    async def scenario(cache: ResponseCache, model: Slow) -> None:
        exchange = an_exchange()
        (first,) = several(cache, 1, exchange=exchange)
        followers = several(cache, 3)
        await settled(lambda: waiting(cache) == 3)
        if how == "cancelled":
            first.cancel()
        elif how == "raises":
            model.gates[0].set_exception(ClientLeft())
        else:
            exchange.leave()
            model.gates[0].set_exception(UpstreamError("cancelled on leaving"))
        await asyncio.wait([first])
        await settled(lambda: len(model.gates) == 2 and waiting(cache) == 2)
        model.gates[1].set_result(None)
        assert [reply.body for reply in await asyncio.gather(*followers)] == [b"2."] * 3
        assert len(model.gates) == 2, "one of those who waited asked for all of them"

    together(scenario)


def test_a_failing_model_fails_each_request_by_itself() -> None:
    async def scenario(cache: ResponseCache, model: Slow) -> None:
        tasks = several(cache, 3)
        await settled(lambda: waiting(cache) == 2)
        model.gates[0].set_exception(UpstreamError())
        await settled(lambda: len(model.gates) == 3)
        model.gates[1].set_result(None)
        model.gates[2].set_result(None)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[0], UpstreamError)
        assert [getattr(reply, "body", None) for reply in results[1:]] == [b"2.", b"3."]

    together(scenario)


@pytest.mark.parametrize(
    "header",
    [(b"cache-control", b"no-store"), (b"content-type", b"text/event-stream; charset=utf-8"), (b"set-cookie", b"a=b")],
)
def test_nobody_waits_for_an_answer_that_cannot_be_shared_at_once(header: Header) -> None:
    async def scenario(cache: ResponseCache, model: Slow) -> None:
        tasks = several(cache, 3)
        await settled(lambda: len(model.gates) == 3)
        for gate in model.gates:
            gate.set_result(None)
        assert [reply.body for reply in await asyncio.gather(*tasks)] == [b"1.", b"2.", b"3."]

    together(scenario, [header])


def test_nobody_waits_for_an_answer_that_outgrew_the_bound() -> None:
    async def scenario(cache: ResponseCache, model: Slow) -> None:
        cache.max_entry_bytes = 2
        (first,) = several(cache, 1)
        await settled(lambda: len(model.gates) == 1)
        (second,) = several(cache, 1)
        await settled(lambda: waiting(cache) == 1)
        cache.max_entry_bytes = 1
        model.gates[0].set_result(None)
        await settled(lambda: len(model.gates) == 2)
        model.gates[1].set_result(None)
        assert [(await task).body for task in (first, second)] == [b"1.", b"2."]

    together(scenario)


def test_a_stream_that_ended_is_given_again_whole() -> None:
    async def scenario(cache: ResponseCache, model: Slow) -> None:
        (task,) = several(cache, 1)
        await settled(lambda: len(model.gates) == 1)
        assert not cache.store.answers
        model.gates[0].set_result(None)
        await task
        again = await ask(cache, b"{}")
        assert (again.body, again.get("x-cache"), again.get("content-type")) == (b"1.", "hit", "text/event-stream")

    together(scenario, [(b"content-type", b"text/event-stream")])


def test_a_stream_that_broke_off_is_not_kept() -> None:
    async def scenario(cache: ResponseCache, model: Slow) -> None:
        (task,) = several(cache, 1)
        await settled(lambda: len(model.gates) == 1)
        model.gates[0].set_exception(UpstreamError())
        await asyncio.wait([task])
        assert not cache.store.answers

    together(scenario, [(b"content-type", b"text/event-stream")])


def test_a_client_that_leaves_while_it_waits_is_gone_at_once_and_harms_nobody() -> None:
    async def scenario(cache: ResponseCache, model: Slow) -> None:
        (first,) = several(cache, 1)
        exchange = an_exchange()
        (follower,) = several(cache, 1, exchange=exchange)
        await settled(lambda: waiting(cache) == 1)
        exchange.leave()
        with pytest.raises(ClientLeft):
            await follower
        assert waiting(cache) == 0
        model.gates[0].set_result(None)
        assert (await first).body == b"1."
        late = an_exchange()
        late.leave()
        flight_ahead = several(cache, 1, path="/other")
        await settled(lambda: len(model.gates) == 2)
        with pytest.raises(ClientLeft):
            await ask(cache, b"{}", exchange=late, path="/other")
        model.gates[1].set_result(None)
        await asyncio.gather(*flight_ahead)

    together(scenario)


def test_a_request_waits_for_an_equal_one_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_cache, "_WAIT", 0.01)

    async def scenario(cache: ResponseCache, model: Slow) -> None:
        tasks = several(cache, 2)
        await settled(lambda: waiting(cache) == 1)
        (flight,) = cache.flights.values()
        assert await flight.landing(an_exchange()) is Landing.ALONE
        while len(model.gates) < 2:
            await asyncio.sleep(0.001)
        for gate in model.gates:
            gate.set_result(None)
        assert [reply.body for reply in await asyncio.gather(*tasks)] == [b"1.", b"2."]

    together(scenario)


def test_those_that_insist_on_a_fresh_answer_wait_for_nobody() -> None:
    async def scenario(cache: ResponseCache, model: Slow) -> None:
        tasks = [*several(cache, 1), *several(cache, 2, headers={"cache-control": "no-cache"})]
        await settled(lambda: len(model.gates) == 3)
        for gate in model.gates:
            gate.set_result(None)
        assert [reply.body for reply in await asyncio.gather(*tasks)] == [b"1.", b"2.", b"3."]

    together(scenario)
