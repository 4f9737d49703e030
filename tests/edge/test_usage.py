"""Limits in tokens: an estimate at admission, settled by what the answer says or, failing that, was seen to be."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.config.settings import LimitSettings
from gateway.core.usage import TAIL, last_usage
from gateway.edge.throttle import Throttle
from gateway.edge.usage import ATTACHMENT_TOKENS, billed, estimate
from gateway.errors import ClientLeft, NoEndpoint, StoreUnavailable, TooManyRequests
from gateway.model import Exchange, Principal
from gateway.stores.memory import MemoryBuckets

SECOND = 10**9
Answer = Callable[[Any, Any], Awaitable[None]]  # (exchange, send)


def wish(size: int = 400, **options: Any) -> bytes:
    """A chat request of `size` bytes, 100 tokens by default."""
    body = json.dumps({"model": "llama", **options, "messages": ""}).encode()
    return body.replace(b'"messages": ""', b'"messages": "' + b"x" * (size - len(body)) + b'"')


def chat(**usage: Any) -> bytes:
    return json.dumps({"id": "c1", "choices": [{"message": {"content": "Hello"}}], "usage": usage or None}).encode()


def answers(*parts: bytes, status: int = 200, kind: bytes = b"application/json", error: Any = None) -> Answer:
    """An upstream that answers so, and then fails with `error`."""

    async def answer(exchange: Exchange, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
        for i, part in enumerate(parts):
            await send({"type": "http.response.body", "body": part, "more_body": i + 1 < len(parts)})
        if isinstance(error, ClientLeft):
            exchange.departed = True
        if error is not None:
            raise error

    return answer


def stream(*parts: bytes, **options: Any) -> Answer:
    return answers(*parts, kind=b"text/event-stream; charset=utf-8", **options)


class Tokens:
    """A caller with a limit of 10,000 tokens a minute, at a clock that stands still."""

    def __init__(self, store: Any = None, **options: Any) -> None:
        self.store = store or MemoryBuckets(keys=100)
        self.sent: list[Any] = []
        self.passed: list[Any] = []  # the fields that reach the model server
        self.answer: Answer = answers(chat())
        limits = [LimitSettings(rate="10000/minute", unit="tokens", **options)]
        self.throttle = Throttle(self._upstream, limits=limits, model="llama", store=self.store, clock=lambda: 10**15)

    async def _upstream(self, scope: Any, receive: Any, send: Any) -> None:
        self.passed = scope["headers"]
        await self.answer(scope["exchange"], send)

    async def _keep(self, message: Any) -> None:
        self.sent.append(message)

    def ask(self, body: bytes | None, answer: Answer, length: bytes = b"", encoding: bytes = b"") -> Exchange:
        self.answer = answer
        exchange = Exchange("r1", 0.0, "192.0.2.1")
        exchange.principal, exchange.body = Principal("a", "a", "key"), body
        headers = [(b"content-length", length)] if length else []
        headers += [(b"accept-encoding", encoding)] if encoding else []
        scope = {"type": "http", "exchange": exchange, "headers": headers}
        try:
            asyncio.run(self.throttle(scope, None, self._keep))  # type: ignore[arg-type]
        except (NoEndpoint, ClientLeft):
            pass
        return exchange

    @property
    def left(self) -> int:
        quota = self.throttle.bundles[0].quotas[0]
        return quota.limit.remaining(self.store.debt(self.store.place(quota.key("a")), 10**15))


def test_the_estimate_is_reserved_while_the_request_runs() -> None:
    tokens = Tokens()
    during = []

    async def answer(exchange: Exchange, send: Any) -> None:
        during.append((tokens.left, dict(exchange.answer_headers)[b"ratelimit"]))

    tokens.ask(wish(max_tokens=900), answer)
    assert during == [(9000, b'"default";r=9000;t=6')]


def test_the_answers_usage_is_what_is_charged() -> None:
    tokens = Tokens()
    tokens.ask(wish(max_tokens=900), answers(chat(prompt_tokens=90, completion_tokens=35, total_tokens=125)))
    assert tokens.left == 9875


def test_an_answer_is_asked_for_whose_usage_can_be_read() -> None:
    """A compressed stream has no events, and what it took would be free."""
    tokens = Tokens()
    tokens.ask(wish(), answers(chat(total_tokens=5)), b"9", b"gzip, br")
    assert tokens.passed == [(b"content-length", b"9"), (b"accept-encoding", b"identity")]
    tokens.ask(wish(), answers(chat(total_tokens=5)))
    assert tokens.passed == []


def test_more_than_the_estimate_is_charged_too_even_into_debt() -> None:
    tokens = Tokens(burst=1000)
    tokens.ask(wish(max_tokens=10), answers(chat(total_tokens=1500)))
    assert tokens.left == 0
    with pytest.raises(TooManyRequests) as refused:
        tokens.ask(wish(max_tokens=10), answers(chat()))
    assert dict(refused.value.headers)[b"retry-after"] in (b"4", b"5")  # 500 + 110 tokens at 167 a second
    assert "10000 tokens per 1 minute" in str(refused.value)


def test_a_request_whose_size_nobody_knows_is_refused_by_an_empty_bucket_too() -> None:
    tokens = Tokens(burst=1000)
    tokens.ask(None, answers(chat(total_tokens=1000)))
    assert tokens.left == 0
    with pytest.raises(TooManyRequests):
        tokens.ask(None, answers(chat()))


def test_a_request_larger_than_the_bucket_is_admitted_by_a_full_one_alone() -> None:
    tokens = Tokens(burst=1000)
    tokens.ask(wish(max_tokens=50_000), answers(chat(total_tokens=10)))
    assert tokens.left == 990
    with pytest.raises(TooManyRequests):
        tokens.ask(wish(max_tokens=50_000), answers(chat(total_tokens=10)))


def test_a_streams_last_chunk_settles_it() -> None:
    tokens = Tokens()
    parts = [b'data: {"choices":[{"delta":{"content":"Hi"}}],"usage":null}\n\n' for _ in range(40)]
    last = b'data: {"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":40,"total_tokens":60}}\n\n'
    tokens.ask(wish(max_tokens=900), stream(*parts, last, b"data: [DONE]\n\n"))
    assert tokens.left == 9940


def test_usage_that_is_cut_over_two_parts_is_read() -> None:
    tokens = Tokens()
    body = chat(total_tokens=60)
    tokens.ask(wish(), answers(*[body[i : i + 7] for i in range(0, len(body), 7)]))
    assert tokens.left == 9940


def test_a_stream_without_usage_is_charged_by_its_events() -> None:
    tokens = Tokens()
    parts = [b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'] * 3
    tokens.ask(wish(max_tokens=900), stream(parts[0] + parts[1], parts[2]))
    assert tokens.left == 10_000 - 100 - 3


def test_an_answer_without_usage_is_charged_by_its_bytes() -> None:
    tokens = Tokens()
    tokens.ask(wish(), answers(b"x" * 2000))
    assert tokens.left == 10_000 - 100 - 500


def test_a_request_that_was_not_answered_is_given_back_whole() -> None:
    tokens = Tokens()

    async def fails(exchange: Exchange, send: Any) -> None:
        raise NoEndpoint

    tokens.ask(wish(max_tokens=900), fails)
    assert tokens.left == 10_000
    tokens.ask(wish(max_tokens=900), answers(b'{"error": {"usage": 5}}', status=500))
    assert tokens.left == 10_000


def test_a_client_that_left_pays_for_what_it_had_been_sent() -> None:
    tokens = Tokens()
    parts = [b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'] * 5
    tokens.ask(wish(max_tokens=900), stream(*parts, error=ClientLeft()))
    assert tokens.left == 10_000 - 100 - 5


def test_a_client_that_left_before_the_answer_pays_for_its_prompt() -> None:
    tokens = Tokens()

    async def left(exchange: Exchange, send: Any) -> None:
        exchange.departed = True
        raise ClientLeft

    tokens.ask(wish(max_tokens=900), left)
    assert tokens.left == 9900


def test_what_is_sent_is_passed_on_as_it_is() -> None:
    tokens = Tokens()
    tokens.ask(wish(), answers(b"a" * 10_000, b"b" * 10_000, b""))
    assert [len(message.get("body", b"")) for message in tokens.sent] == [0, 10_000, 10_000, 0]


def test_no_more_than_the_end_of_an_answer_is_kept() -> None:
    tokens = Tokens()
    kept = []

    async def endless(exchange: Exchange, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
        kept.append(sum(map(len, send.tail._parts)))

    tokens.ask(wish(), endless)
    assert 4096 <= kept[0] <= 5096


def test_a_dry_run_in_tokens_reserves_settles_and_admits() -> None:
    tokens = Tokens(dry_run=True, burst=1000)
    exchange = tokens.ask(wish(max_tokens=800), answers(chat(total_tokens=990)))
    assert (tokens.left, exchange.limit_verdict) == (10, "admitted")
    exchange = tokens.ask(wish(max_tokens=800), answers(chat(total_tokens=990)))
    assert (tokens.left, exchange.limit_verdict) == (10, "would_limit")


def test_requests_and_tokens_are_told_apart() -> None:
    limits = [LimitSettings(rate="10/minute"), LimitSettings(rate="10000/minute", unit="tokens")]
    tokens = Tokens()
    tokens.throttle = Throttle(tokens._upstream, limits=limits, model="m", store=tokens.store, clock=lambda: 10**15)
    exchange = tokens.ask(wish(max_tokens=900), answers(chat(total_tokens=500)))
    assert exchange.answer_headers == [
        (b"ratelimit-policy", b'"requests-1";q=10;w=60, "tokens-2";q=10000;w=60;qu="tokens"'),
        (b"ratelimit", b'"requests-1";r=9;t=6, "tokens-2";r=9000;t=6'),
        (b"x-ratelimit-limit-requests", b"10"),
        (b"x-ratelimit-remaining-requests", b"9"),
        (b"x-ratelimit-reset-requests", b"6s"),
        (b"x-ratelimit-limit-tokens", b"10000"),
        (b"x-ratelimit-remaining-tokens", b"9000"),
        (b"x-ratelimit-reset-tokens", b"6s"),
    ]
    again = tokens.ask(wish(max_tokens=900), answers(chat(total_tokens=500)))
    assert (b"ratelimit", b'"requests-1";r=8;t=12, "tokens-2";r=8500;t=9') in again.answer_headers


class Remote:
    """A store elsewhere, which goes away when it is told to."""

    is_remote = True

    def __init__(self) -> None:
        self.local = MemoryBuckets(keys=100)
        self.is_away = False
        self.settled: list[tuple[str, int]] = []

    def place(self, key: str, tag: str) -> str:
        return key

    async def take(self, places: Any, prices: Any, windows: Any) -> list[int]:
        if self.is_away:
            raise StoreUnavailable
        return list(prices)

    def settle(self, place: str, correction: int) -> None:
        self.settled.append((place, correction))


@pytest.mark.parametrize(("is_away", "corrections"), [(False, [-950 * 6_000_000]), (True, [])])
def test_a_reservation_is_settled_where_it_was_made(is_away: bool, corrections: list[int]) -> None:
    remote = Remote()
    tokens = Tokens(store=remote)
    remote.is_away = is_away
    during: list[int] = []

    async def answer(exchange: Exchange, send: Any) -> None:
        remote.is_away = not is_away
        key = tokens.throttle.bundles[0].quotas[0].key("a")
        during.append(remote.local.debt(remote.local.place(key), 10**15))
        await answers(chat(total_tokens=50))(exchange, send)

    tokens.ask(wish(max_tokens=900), answer)
    key = tokens.throttle.bundles[0].quotas[0].key("a")
    after = remote.local.debt(remote.local.place(key), 10**15)
    assert [correction for _, correction in remote.settled] == corrections
    assert (during, after) == (([6 * SECOND], 50 * 6_000_000) if is_away else ([0], 0))


@pytest.mark.parametrize("options", [{"on_store_error": "open"}, {"on_store_error": "closed", "dry_run": True}])
def test_what_was_not_reserved_anywhere_is_not_settled(options: dict[str, Any]) -> None:
    remote = Remote()
    remote.is_away = True
    tokens = Tokens(store=remote, **options)
    assert tokens.ask(wish(max_tokens=900), answers(chat(total_tokens=50))).limit_verdict == "store_down"
    assert remote.settled == []


def estimated(body: bytes | None, length: bytes = b"", kind: bytes = b"application/json") -> tuple[int, int]:
    exchange = Exchange("r1", 0.0, "192.0.2.1")
    exchange.body, exchange.fields = body, {b"content-type": kind}
    return estimate(exchange, {"headers": [(b"content-length", length)] if length else []})


@pytest.mark.parametrize(
    ("options", "completion"),
    [
        ({}, 0),
        ({"max_tokens": 50}, 50),
        ({"max_completion_tokens": 60, "max_tokens": 50}, 60),
        ({"max_output_tokens": 70}, 70),
        ({"parameters": {"max_new_tokens": 80, "details": True}}, 80),
        ({"max_tokens": 50, "n": 3}, 150),
        ({"max_tokens": -1}, 0),
        ({"max_tokens": None}, 0),
        ({"max_tokens": "many"}, 0),
    ],
)
def test_what_a_body_asks_for_is_estimated(options: dict[str, Any], completion: int) -> None:
    assert estimated(wish(**options)) == (100, completion)


def test_a_body_that_streams_through_is_estimated_by_its_length() -> None:
    assert estimated(None, b"4000") == (1000, 0)
    assert estimated(None) == (0, 0)
    assert estimated(b"\x00\xff not JSON") == (2, 0)
    assert estimated(b'{"messages":' + b"[" * 100_000) == (25_003, 0)


@pytest.mark.parametrize(
    "attached",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A/" * 500_000}},
        {"type": "input_audio", "input_audio": {"data": "A/" * 500_000, "format": "wav"}},
        {"images": ["A/" * 500_000]},
    ],
)
def test_an_image_or_a_sound_is_estimated_to_be_no_text(attached: Any) -> None:
    """A megabyte of it would reserve all that a caller has, and be admitted by a full bucket alone."""
    body = json.dumps({"model": "llama", "messages": [{"role": "user", "content": [attached]}]}).encode()
    assert estimated(body)[0] == pytest.approx(ATTACHMENT_TOKENS, abs=100)
    assert estimated(body.replace(b"/", b"\\/"))[0] == pytest.approx(ATTACHMENT_TOKENS, abs=100)  # as PHP writes it


def test_a_form_with_a_file_is_estimated_to_be_no_text() -> None:
    assert estimated(None, b"25000000", b"multipart/form-data; boundary=x") == (ATTACHMENT_TOKENS, 0)
    assert estimated(b"x" * 25_000_000, b"", b"multipart/form-data; boundary=x") == (ATTACHMENT_TOKENS, 0)
    assert estimated(None, b"400", b"multipart/form-data; boundary=x") == (100, 0)


def test_a_bill_in_front_of_a_long_answer_is_found() -> None:
    """Rerankings of vLLM, embeddings of llama.cpp."""
    tokens = Tokens()
    rest = [b'"data":[', b"0.1," * TAIL, b"0]}"]
    tokens.ask(wish(), answers(b'{"object":"list","usage":{"prompt_tokens":5,"total_tokens":5},', *rest))
    assert tokens.left == 9995


@pytest.mark.parametrize(
    ("end", "used"), [(b'{"done":true,"prompt_eval_count":26,"eval_count":50}\n', 76), (b'{"done":true}\n', 151)]
)
def test_a_stream_of_ollamas_own_is_charged_by_its_counts_or_its_lines(end: bytes, used: int) -> None:
    """By its bytes each token would be thirty."""
    tokens = Tokens()
    line = (
        b'{"model":"m","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":"a"},"done":false}\n'
    )
    tokens.ask(wish(), answers(*[line] * 50, end, kind=b"application/x-ndjson"))
    assert tokens.left == 10_000 - used


@pytest.mark.parametrize(
    ("answer", "used"),
    [
        (b'{"text":"a","meta_info":{"id":"x","prompt_tokens":26,"completion_tokens":50}}', 76),  # SGLang's
        (
            b'{"content":"a","tokens_predicted":50,"tokens_evaluated":26,"timings":{"predicted_n":50}}',
            76,
        ),  # llama.cpp's
        (b'{"generated_text":"a","details":{"generated_tokens":50,"tokens":["%b"]}}' % (b"a" * 2 * TAIL), 150),  # TGI's
    ],
)
def test_an_engines_own_api_is_charged_by_its_counts(answer: bytes, used: int) -> None:
    tokens = Tokens()
    tokens.ask(wish(), answers(answer))
    assert tokens.left == 10_000 - used


def test_a_count_that_cannot_be_is_none() -> None:
    """An overflow of a model server locked its caller out of the limit for years."""
    tokens = Tokens()
    for count in (b"4294967295", b"1%b" % (b"0" * 14), b"1e14"):
        tokens.ask(wish(), answers(b'{"usage":{"prompt_tokens":%b,"total_tokens":%b}}' % (count, count)))
    assert tokens.left > 9500, "charged by their bytes"


@pytest.mark.parametrize("events", [1, TAIL])
def test_a_stream_that_says_at_its_beginning_what_it_has_read_is_charged_for_that(events: int) -> None:
    tokens = Tokens()
    begin = b'event: message_start\ndata: {"message":{"usage":{"input_tokens":25,"output_tokens":1}}}\n\n'
    end = b'event: message_delta\ndata: {"usage":{"output_tokens":15}}\n\n'
    tokens.ask(wish(), stream(begin, *[b'data: {"delta":{"text":"a"}}\n\n'] * events, end))
    assert tokens.left == 9960


@pytest.mark.parametrize(
    ("tail", "tokens"),
    [
        (b'{"usage":{"total_tokens":7}}', 7),
        (b'{"usage": {"prompt_tokens": 3, "completion_tokens": 4}}', 7),
        (b'{"usage":{"input_tokens":3,"output_tokens":4,"cache":{"read":1}}}', 7),
        (b'{"usage":{"output_tokens":4}}', 104),
        (b'{"usage":{"prompt_tokens":3,"total_tokens":3}}', 3),
        (b'data: {"usage":{"total_tokens":5}}\n\ndata: {"usage":{"total_tokens":9}}\n\n', 9),
        (b'{"content":"say \\"usage\\":{\\"total_tokens\\":99}","usage":{"total_tokens":2}}', 2),
        (b'{"content":"say \\"usage\\":{\\"total_tokens\\":99}"}', None),
        (b'{"usage":null}', None),
        (b'{"usage":{"total_tokens":"x","prompt_tokens":[]}}', None),
        (b'{"usage":{"total_tok', None),
        (b'{"usage":{"total_tokens":-5}}', 0),
        (b'{"usage":{"total_tokens":%b}}' % (b"9" * 400), 100),
        (b'{"usage":' + b"[" * 4000, None),
        (b"", None),
    ],
)
def test_usage_is_read_from_the_end_of_an_answer(tail: bytes, tokens: int | None) -> None:
    assert billed(last_usage(tail), prompt=100) == tokens
