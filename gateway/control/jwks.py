"""Issuers' public keys, kept fresh: fetched or read, checked, and handed on when they change.

An issuer that is down costs nothing but news: the keys it had stay in use, and the gateway starts without them. Only
the URL in the configuration is ever asked; a token cannot name another (RFC 8725, 3.10), nor can an answer redirect.
"""

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Protocol

import httpx2

from gateway.stores.keysets import KeySet

_log = logging.getLogger("gateway.control")

PERIOD = 600.0  # seconds between two fetches, where the issuer does not say
_PERIODS = (60.0, 3600.0)  # seconds: how far an issuer's max-age is heeded; a withdrawn key lives no longer
_FILE_PERIOD = 1.0  # seconds between two looks at a file
_RETRIES = (10.0, 600.0)  # seconds from a failure to the next attempt: the first, doubled up to the last
_ASK_PERIOD = 10.0  # seconds between two fetches because tokens name an unknown key
_TIMEOUT = 5.0  # seconds for a whole fetch
_LONGEST = 2**20  # bytes of a key set
_LONGEST_LIST = 2**24  # bytes of a list of revoked tokens: some 400,000 UUIDs
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=\"?(\d{1,9})", re.IGNORECASE)

Publish = Callable[[Mapping[str, bytes]], Awaitable[None]]


class Issuer(Protocol):
    """An entry of `auth.jwt`, as far as keys go."""

    @property
    def issuer(self) -> str: ...
    @property
    def algorithms(self) -> Sequence[str]: ...
    @property
    def jwks_url(self) -> str | None: ...
    @property
    def jwks_file(self) -> Path | None: ...
    @property
    def public_key_file(self) -> Path | None: ...
    @property
    def secret_file(self) -> Path | None: ...
    @property
    def secret_env(self) -> str | None: ...
    @property
    def is_discovered(self) -> bool: ...


@dataclass(slots=True)
class _Source:
    """Where one issuer's keys come from, and how that goes."""

    issuer: str
    algorithms: Sequence[str]
    place: str | Path  # a URL, or a file
    is_secret: bool = False  # the file holds a secret, to its last byte but for white space at its ends
    is_discovered: bool = False  # the URL is of the issuer's metadata, which says where its keys are
    asked: float = -inf  # when it was last read because somebody asked, by the clock
    failures: int = 0  # in a row
    fetched: float | None = None  # when it last went well, by the clock
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def parse(self, text: bytes) -> bytes:
        """The keys in the form that workers are given. Raises ValueError."""
        if self.is_secret:
            return KeySet.of_secret(text.strip(), self.algorithms).text
        return KeySet.parse(text, self.algorithms).text


def load_files(issuers: Iterable[Issuer]) -> dict[str, bytes]:
    """The keys of all issuers that have them in a file or a variable. Raises ValueError for one that cannot be
    used."""
    keys = {}
    for entry in issuers:
        if entry.secret_env is not None:
            keys[entry.issuer] = _secret_of(entry.secret_env, entry.algorithms)
            continue
        source = _source(entry)
        if isinstance(source.place, Path):
            try:
                keys[source.issuer] = source.parse(_read(source.place))
            except (OSError, ValueError) as error:
                raise ValueError(f"{source.place}: {_tell(error)}") from error
    return keys


def _secret_of(variable: str, algorithms: Sequence[str]) -> bytes:
    try:
        return KeySet.of_secret(os.environ.get(variable, "").encode().strip(), algorithms).text
    except ValueError as error:
        raise ValueError(f"the variable {variable} {error}") from None


def key_of_file(entry: Issuer) -> str:
    """Which key of the entry names its file, or variable."""
    names = ("public_key_file", "jwks_file", "secret_file", "secret_env")
    return next(name for name in names if getattr(entry, name) is not None)


class Jwks:
    """The keys of all issuers; `run` keeps them fresh."""

    def __init__(
        self,
        issuers: Iterable[Issuer],
        publish: Publish,
        *,
        keys: Mapping[str, bytes] | None = None,
        client: httpx2.AsyncClient | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`publish` is awaited with all keys, by issuer, whenever any of them changes. `keys` are those known already:
        `load_files`, or what was published last. `client` is closed with us. Raises ValueError for an issuer that does
        not say, once, where its keys are."""
        self._publish = publish
        self._clock = clock
        self._sleep = sleep
        self._client = client or httpx2.AsyncClient(follow_redirects=False, timeout=_TIMEOUT)
        # A variable never changes while we run: `load_files` has read it.
        self._sources = {entry.issuer: _source(entry) for entry in issuers if entry.secret_env is None}
        self._publishing = asyncio.Lock()
        self.keys = {issuer: text for issuer, text in (keys or {}).items() if issuer in self._sources}

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for source in self._sources.values():
                    tasks.create_task(self._follow(source))
        finally:
            await self._client.aclose()

    def state(self) -> list[tuple[str, int, float | None]]:
        """Of each issuer: failures in a row, and how many seconds ago its keys were last had."""
        now = self._clock()
        return [
            (source.issuer, source.failures, None if source.fetched is None else now - source.fetched)
            for source in self._sources.values()
        ]

    async def refresh(self, issuer: str) -> bool:
        """Look now, because a token names a key that is not known; True if there is news. Asked again within ten
        seconds it does nothing: anybody can write a token."""
        source = self._sources.get(issuer)
        if source is None:
            return False
        before = self.keys.get(issuer)
        async with source.lock:
            if self._clock() - source.asked >= _ASK_PERIOD:
                source.asked = self._clock()
                await self._update(source)
        return self.keys.get(issuer) != before

    async def _follow(self, source: _Source) -> None:
        while True:
            try:
                async with source.lock:
                    delay = await self._update(source)
            except Exception:  # a task's border: one issuer's trouble, or a full disk, does not end the others' news
                _log.exception("the keys of %s could not be published", source.issuer)
                delay = _RETRIES[0]
            await self._sleep(delay)

    async def _update(self, source: _Source) -> float:
        """Read the source once -> seconds until it should be read again."""
        try:
            if isinstance(source.place, Path):
                text, delay = _read(source.place), _FILE_PERIOD
            else:
                url = await self._discover(source) if source.is_discovered else source.place
                text, delay = await self._fetch(url)
            keys = source.parse(text)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            return self._fail(source, error)
        source.fetched = self._clock()
        if source.failures:
            _log.info("the keys of %s can be had again", source.issuer)
            source.failures = 0
        async with self._publishing:
            if self.keys.get(source.issuer) != keys:
                await self._publish({**self.keys, source.issuer: keys})
                self.keys = {**self.keys, source.issuer: keys}
        return delay

    def _fail(self, source: _Source, error: Exception) -> float:
        if not source.failures:
            state = "those it had stay in use" if source.issuer in self.keys else "its tokens cannot be verified"
            _log.warning("no keys of %s from %s: %s; %s", source.issuer, source.place, _tell(error), state)
        source.failures += 1
        if isinstance(source.place, Path):
            return _FILE_PERIOD
        return min(_RETRIES[0] * 2.0 ** min(source.failures - 1, 30), _RETRIES[1])

    async def _discover(self, source: _Source) -> str:
        """Where the issuer says that its keys are. Raises ValueError."""
        text, _ = await self._fetch(str(source.place))
        document = json.loads(text)
        if not isinstance(document, dict) or document.get("issuer") != source.issuer:  # OIDC Discovery, 4.3
            raise ValueError("it is not the metadata of this issuer")
        url = document.get("jwks_uri")
        schemes = ("https://",) if source.issuer.startswith("https://") else ("https://", "http://")
        if not isinstance(url, str) or not url.lower().startswith(schemes):
            raise ValueError(f"its jwks_uri is no {' or '.join(schemes)} URL")
        return url

    async def _fetch(self, url: str) -> tuple[bytes, float]:
        """The body, and for how many seconds it need not be fetched again."""
        # As it is sent: nobody unpacks a megabyte of zeros here.
        headers = {"accept": "application/jwk-set+json, application/json", "accept-encoding": "identity"}
        async with asyncio.timeout(_TIMEOUT), self._client.stream("GET", url, headers=headers) as response:
            if response.status_code != 200:
                raise ValueError(f"answered {response.status_code}")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > _LONGEST:
                    raise ValueError(f"longer than {_LONGEST} bytes")
        return bytes(body), _period(response.headers.get("cache-control", ""))

    def __repr__(self) -> str:
        failing = sorted(source.issuer for source in self._sources.values() if source.failures)
        return f"<Jwks keys of {sorted(self.keys)} failing {failing}>"


def _source(entry: Issuer) -> _Source:
    named = (entry.jwks_url, entry.jwks_file, entry.public_key_file, entry.secret_file)
    places = [place for place in named if place is not None]
    if not places and entry.is_discovered:
        places.append(entry.issuer.removesuffix("/") + "/.well-known/openid-configuration")  # OIDC Discovery, 4.1
    if len(places) != 1:
        raise ValueError(f"issuer {entry.issuer!r} needs one of jwks_url, jwks_file and public_key_file")
    if isinstance(places[0], str) and not places[0].lower().startswith(("http://", "https://")):
        raise ValueError(f"issuer {entry.issuer!r}: {places[0]!r} is not an http(s) URL")
    is_secret = entry.secret_file is not None
    return _Source(entry.issuer, entry.algorithms, places[0], is_secret, entry.is_discovered)


def read_revoked(path: Path) -> list[str]:
    """The ids of revoked tokens: one a line, without empty ones and comments (#). Raises OSError, ValueError."""
    lines = _read(path, _LONGEST_LIST).decode("utf-8").splitlines()
    return sorted({line.strip() for line in lines if line.strip() and not line.startswith("#")})


def _read(path: Path, longest: int = _LONGEST) -> bytes:
    with path.open("rb") as file:
        text = file.read(longest + 1)
    if len(text) > longest:
        raise ValueError(f"{path}: longer than {longest} bytes")
    return text


def _period(cache_control: str) -> float:
    """RFC 9111, 5.2.2.1, within bounds."""
    match = _MAX_AGE.search(cache_control)
    low, high = _PERIODS
    return min(max(float(match[1]), low), high) if match else PERIOD


def _tell(error: Exception) -> str:
    return str(error) or type(error).__name__
