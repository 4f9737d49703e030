"""Issuers' keys: fetched, kept through outages, handed on when they change."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.control import jwks
from gateway.control.jwks import Jwks, load_files
from gateway.stores.keysets import KeySet
from tests.edge.auth_makers import ec_key, jwk, pem, rsa_key

URL = "https://issuer.example/jwks.json"
EC = jwk(ec_key(), "ES256", kid="e1")
OTHER = jwk(ec_key("other"), "ES256", kid="e2")


@dataclass(frozen=True)
class Entry:
    issuer: str = "one"
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    jwks_url: str | None = None
    jwks_file: Path | None = None
    public_key_file: Path | None = None
    secret_file: Path | None = None
    secret_env: str | None = None
    is_discovered: bool = False


def document(*members: dict[str, Any]) -> bytes:
    return json.dumps({"keys": members}).encode()


def normal(*members: dict[str, Any]) -> bytes:
    return KeySet.parse(document(*members), ("RS256", "ES256")).text


@dataclass
class Source:
    """An issuer's server: what it answers next, and what it was asked."""

    answers: list[httpx2.Response | Exception]
    asked: list[httpx2.Request] = field(default_factory=list)

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        await asyncio.sleep(0)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx2.Response(answer.status_code, headers=answer.headers, stream=httpx2.ByteStream(answer.content))


def ok(*members: dict[str, Any], **headers: str) -> httpx2.Response:
    return httpx2.Response(200, headers=headers, content=document(*members))


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now


class Kept(list[dict[str, bytes]]):
    """Takes what is published, after it has failed to as often as it is told."""

    def __init__(self, fails: int = 0) -> None:
        super().__init__()
        self.fails = fails

    async def __call__(self, keys: Mapping[str, bytes]) -> None:
        if self.fails:
            self.fails -= 1
            raise OSError(28, "No space left on device")
        self.append(dict(keys))


@dataclass
class Stage:
    jwks: Jwks
    source: Source
    published: Kept
    clock: Clock


def play(
    answers: list[httpx2.Response | Exception],
    *,
    rounds: int,
    act: Callable[[Stage], Awaitable[None]] | None = None,
    published: Kept | None = None,
    keys: Mapping[str, bytes] | None = None,
) -> Stage:
    """Run until the source was read `rounds` times, in no time."""

    async def main() -> Stage:
        clock, source, taken = Clock(), Source(answers), published if published is not None else Kept()
        finished = asyncio.Event()

        async def sleep(seconds: float) -> None:
            clock.now += seconds
            clock.slept.append(seconds)
            if len(clock.slept) >= rounds:
                finished.set()
                await asyncio.Event().wait()

        client = httpx2.AsyncClient(transport=httpx2.MockTransport(source))
        keeper = Jwks([Entry(jwks_url=URL)], taken, client=client, clock=clock, sleep=sleep, keys=keys)
        stage = Stage(keeper, source, taken, clock)
        async with running(stage.jwks):
            await asyncio.wait_for(finished.wait(), 5)
            if act is not None:
                await act(stage)
        return stage

    return asyncio.run(main())


@asynccontextmanager
async def running(keeper: Jwks) -> AsyncIterator[None]:
    task = asyncio.create_task(keeper.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_keys_are_fetched_at_once_and_published() -> None:
    stage = play([ok(EC)], rounds=1)
    assert stage.published == [{"one": normal(EC)}]
    (request,) = stage.source.asked
    assert (request.method, str(request.url), request.headers["accept-encoding"]) == ("GET", URL, "identity")


def test_keys_are_published_again_only_when_they_changed() -> None:
    stage = play([ok(EC), ok(EC), ok(EC, OTHER), ok(OTHER)], rounds=5)
    assert stage.published == [{"one": normal(EC)}, {"one": normal(EC, OTHER)}, {"one": normal(OTHER)}]


@pytest.mark.parametrize(
    ("cache_control", "period"),
    [
        ("", 600),
        ("max-age=300", 300),
        ("public, max-age=120, must-revalidate", 120),
        ('Max-Age="900"', 900),
        ("max-age=0", 60),
        ("max-age=86400", 3600),
        ("max-age=99999999999999", 3600),
        ("s-max-age=300", 600),
        ("no-cache", 600),
        ("max-age=soon", 600),
    ],
)
def test_an_issuer_says_how_long_its_keys_hold_within_reason(cache_control: str, period: float) -> None:
    stage = play([ok(EC, **{"cache-control": cache_control})], rounds=1)
    assert stage.clock.slept == [period]


BAD: dict[str, httpx2.Response | Exception] = {
    "unreachable": httpx2.ConnectError("refused"),
    "silent": httpx2.ReadTimeout("silent"),
    "no HTTP": httpx2.RemoteProtocolError("garbage"),
    "500": httpx2.Response(500, content=document(OTHER)),
    "404": httpx2.Response(404, content=document(OTHER)),
    "redirect": httpx2.Response(302, headers={"location": "https://mallory.example/"}, content=document(OTHER)),
    "HTML": httpx2.Response(200, content=b"<html>"),
    "no keys": httpx2.Response(200, content=b'{"keys": []}'),
    "no usable key": httpx2.Response(200, content=b'{"keys": [{"kty": "oct", "k": "AA"}]}'),
    "a private key": httpx2.Response(200, content=b"-----BEGIN PRIVATE KEY-----"),
    "too long": httpx2.Response(200, content=document(OTHER) + b" " * 2**20),
}


@pytest.mark.parametrize("name", BAD)
def test_an_issuer_in_trouble_costs_one_line_and_no_key(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gateway")
    stage = play([ok(EC), BAD[name], BAD[name], BAD[name], ok(EC)], rounds=5)
    assert stage.published == [{"one": normal(EC)}]
    assert [str(request.url) for request in stage.source.asked] == [URL] * 5
    levels = [record.levelname for record in caplog.records if record.name == "gateway.control"]
    assert levels == ["WARNING", "INFO"]
    assert "stay in use" in caplog.text
    assert stage.clock.slept == [600, 10, 20, 40, 600]


def test_a_source_that_stays_away_is_asked_ever_less_often_but_still_asked() -> None:
    stage = play([BAD["unreachable"]], rounds=40)
    assert stage.clock.slept[:8] == [10, 20, 40, 80, 160, 320, 600, 600]
    assert stage.clock.slept[-1] == 600


def test_a_gateway_starts_without_its_issuer() -> None:
    stage = play([BAD["unreachable"], ok(EC)], rounds=2)
    assert stage.published == [{"one": normal(EC)}]


def test_keys_that_were_published_before_a_restart_are_kept_and_not_published_again() -> None:
    stage = play([ok(EC)], rounds=1, keys={"one": normal(EC), "gone": b"x"})
    assert stage.published == []
    assert stage.jwks.keys == {"one": normal(EC)}


METADATA = "https://issuer.example/.well-known/openid-configuration"


def discover(metadata: Any) -> tuple[list[str], Kept]:
    """What is asked for, and what is published, where the issuer's metadata are these."""
    asked: list[str] = []

    async def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(str(request.url))
        content = json.dumps(metadata).encode() if str(request.url) == METADATA else document(EC)
        return httpx2.Response(200, stream=httpx2.ByteStream(content))

    async def main() -> Kept:
        kept, done = Kept(), asyncio.Event()

        async def sleep(_: float) -> None:
            done.set()
            await asyncio.Event().wait()

        entry = Entry(issuer="https://issuer.example/", is_discovered=True)
        client = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
        async with running(Jwks([entry], kept, client=client, sleep=sleep)):
            await asyncio.wait_for(done.wait(), 5)
        return kept

    return asked, asyncio.run(main())


def test_an_issuer_says_itself_where_its_keys_are() -> None:
    asked, published = discover({"issuer": "https://issuer.example/", "jwks_uri": "https://keys.example/k"})
    assert asked == [METADATA, "https://keys.example/k"]
    assert published == [{"https://issuer.example/": normal(EC)}]


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://issuer.example", "jwks_uri": "https://keys.example/k"},
        {"jwks_uri": "https://keys.example/k"},
        {"issuer": "https://issuer.example/", "jwks_uri": "http://keys.example/k"},
        {"issuer": "https://issuer.example/", "jwks_uri": "file:///etc/passwd"},
        {"issuer": "https://issuer.example/", "jwks_uri": ["https://keys.example/k"]},
        {"issuer": "https://issuer.example/"},
        [],
    ],
)
def test_metadata_of_another_issuer_or_that_lead_off_https_are_not_followed(metadata: Any) -> None:
    assert discover(metadata) == ([METADATA], [])


def test_a_look_out_of_turn_finds_a_new_key_and_is_taken_once_in_ten_seconds() -> None:
    found = []

    async def act(stage: Stage) -> None:
        for second in (600, 600, 609.9, 610.0, 611):
            stage.clock.now = second
            found.append(await stage.jwks.refresh("one"))
        found.append(await stage.jwks.refresh("unknown"))

    stage = play([ok(EC), ok(EC, OTHER)], rounds=1, act=act)
    assert found == [True, False, False, False, False, False]
    assert len(stage.source.asked) == 3
    assert stage.published[-1] == {"one": normal(EC, OTHER)}


def test_a_key_that_is_new_right_after_a_fetch_is_looked_for_at_once() -> None:
    async def act(stage: Stage) -> None:
        stage.clock.now = 1.0
        assert await stage.jwks.refresh("one")

    assert len(play([ok(EC), ok(OTHER)], rounds=1, act=act).source.asked) == 2


def test_those_who_look_at_the_same_time_ask_once_and_all_hear_the_news() -> None:
    found: list[bool] = []

    async def act(stage: Stage) -> None:
        found.extend(await asyncio.gather(*(stage.jwks.refresh("one") for _ in range(5))))

    stage = play([ok(EC), ok(OTHER)], rounds=1, act=act)
    assert found == [True] * 5
    assert len(stage.source.asked) == 2


def test_keys_that_could_not_be_published_are_published_later(caplog: pytest.LogCaptureFixture) -> None:
    stage = play([ok(EC)], rounds=2, published=Kept(fails=1))
    assert stage.published == [{"one": normal(EC)}]
    assert "No space left" in caplog.text


def test_one_issuers_trouble_is_not_the_others(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.pem", tmp_path / "missing.pem"
    good.write_bytes(pem(rsa_key()))
    entries = [Entry("bad", public_key_file=bad), Entry("good", public_key_file=good)]

    async def main() -> Kept:
        published = Kept()
        async with running(Jwks(entries, published)):
            await until(lambda: bool(published))
        return published

    assert [list(keys) for keys in asyncio.run(main())] == [["good"]]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def test_a_file_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(jwks, "_FILE_PERIOD", 0.01)
    path = tmp_path / "jwks.json"
    path.write_bytes(document(EC))

    async def main() -> Kept:
        published = Kept()
        async with running(Jwks([Entry(jwks_file=path)], published)):
            await until(lambda: len(published) == 1)
            path.write_bytes(b"{ half of")
            await until(lambda: "stay in use" in caplog.text)
            path.write_bytes(document(OTHER))
            await until(lambda: len(published) == 2)
        return published

    assert asyncio.run(main()) == [{"one": normal(EC)}, {"one": normal(OTHER)}]


def test_files_are_read_before_anything_runs(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(pem(rsa_key()))
    loaded = load_files([Entry("file", public_key_file=key), Entry("url", jwks_url=URL)])
    assert KeySet.parse(loaded["file"], ["RS256"]).find("any", "RS256") is not None
    assert list(loaded) == ["file"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"", "neither JSON nor PEM"),
        (b"x" * (2**20 + 1), "longer than"),
        (pem(ec_key()), "is for none of RS256"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"key\.pem: .*{said}"):
        load_files([Entry(public_key_file=path, algorithms=("RS256",))])


@pytest.mark.parametrize(
    "places",
    [{}, {"jwks_url": URL, "jwks_file": Path("x")}, {"jwks_url": "file:///etc/passwd"}, {"jwks_url": "ftp://x/"}],
)
def test_keys_come_from_one_place_and_over_http_alone(places: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="issuer 'one'"):
        Jwks([Entry(**places)], Kept())


# --- over a real connection ---


async def shortly(_: float) -> None:
    await asyncio.sleep(0)


async def serve(*answers: bytes) -> tuple[asyncio.Server, int, list[bytes]]:
    """An HTTP server of exactly these answers, one to a connection, then silence -> (server, port, what was asked)."""
    waiting, asked = list(answers), []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        if waiting:
            writer.write(waiting.pop(0))
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1], asked


def test_keys_come_over_a_real_connection_and_no_redirect_is_followed() -> None:
    body = document(EC)
    redirect = b"HTTP/1.1 307 Away\r\nlocation: /elsewhere\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

    async def main() -> tuple[Kept, list[bytes]]:
        server, port, asked = await serve(redirect, answer)
        published = Kept()
        client = httpx2.AsyncClient(trust_env=False)
        entry = Entry(jwks_url=f"http://127.0.0.1:{port}/jwks.json")
        async with server, running(Jwks([entry], published, client=client, sleep=shortly)):
            await until(lambda: bool(published))
        return published, asked

    published, asked = asyncio.run(main())
    assert published == [{"one": normal(EC)}]
    assert {head.split(b"\r\n")[0] for head in asked} == {b"GET /jwks.json HTTP/1.1"}


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{", b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (2**20 + 1)],
    ids=["silent", "broken off", "endless"],
)
def test_a_server_that_does_not_end_well_is_given_up(
    answer: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jwks, "_TIMEOUT", 0.1)

    async def main() -> Kept:
        server, port, _ = await serve(*[answer] if answer else [])
        published = Kept()
        entry = Entry(jwks_url=f"http://127.0.0.1:{port}/jwks.json")
        async with server, running(Jwks([entry], published, client=httpx2.AsyncClient(trust_env=False))):
            await until(lambda: "no keys of one" in caplog.text)
        return published

    assert asyncio.run(main()) == []
