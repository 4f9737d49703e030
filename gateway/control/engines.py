"""Ask every inference engine for its own metrics, so that a policy may know what no gateway sees.

It runs in the controller: one task for each source, a request each second. What cannot be had is not told, and what
was told grows old: whoever uses it ignores it then.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable
from random import Random
from typing import NamedTuple

import httpx2

from gateway.core.endpoint import Address
from gateway.core.engines import Reading, read_engine

_log = logging.getLogger("gateway.control.engines")

INTERVAL = 1.0  # seconds
_TIMEOUT = 1.0
_BODY = 4 * 2**20  # bytes of metrics that are read; vLLM's are some 100 KiB for each model
_HEADERS = {"user-agent": "gateway", "accept": "text/plain", "accept-encoding": "identity"}

OnReading = Callable[[str, Reading], None]


class Source(NamedTuple):
    """Where an endpoint's engine tells its metrics."""

    url: str  # the endpoint
    path: str
    port: int | None = None  # None: the endpoint's own
    tls: ssl.SSLContext | None = None  # for https; None: the system's CAs
    server_name: str | None = None  # asked for and verified instead of the URL's host


class Engines:
    """Asks a set of sources until it is closed. `on_reading(url, reading)` is called in the event loop's thread and
    must not block."""

    def __init__(self, on_reading: OnReading, *, rng: Random | None = None) -> None:
        self._on_reading = on_reading
        self._rng = rng or Random()
        self._tasks: dict[Source, asyncio.Task[None]] = {}
        self._transports: dict[ssl.SSLContext | None, httpx2.AsyncHTTPTransport] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._silent: set[str] = set()  # URLs that were reported to say nothing

    def update(self, sources: Iterable[Source]) -> None:
        """Ask these from now on. Must be called in the event loop's thread."""
        wanted = set(sources)
        loop = asyncio.get_running_loop()
        for source in self._tasks.keys() - wanted:
            self._tasks.pop(source).cancel()
        contexts = {source.tls for source in wanted}
        for context in self._transports.keys() - contexts:
            task = loop.create_task(self._transports.pop(context).aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        for context in contexts - self._transports.keys():
            verify = context or httpx2.create_ssl_context()
            self._transports[context] = httpx2.AsyncHTTPTransport(verify=verify, trust_env=False)
        for source in wanted - self._tasks.keys():
            self._tasks[source] = loop.create_task(self._ask_often(source))
        self._silent &= {source.url for source in wanted}

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        self.update(())
        await asyncio.gather(*tasks, *self._closing, return_exceptions=True)

    async def _ask_often(self, source: Source) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(self._rng.random() * INTERVAL)  # so that not all are asked at one instant
        while True:
            began = clock()
            try:
                reading, why = await self._ask(source)
            except Exception as error:  # the task's border: it is asked again whatever went wrong
                reading, why = None, repr(error)
            if reading is not None:
                self._on_reading(source.url, reading)
            self._note(source.url, why)
            await asyncio.sleep(began + INTERVAL - clock())

    async def _ask(self, source: Source) -> tuple[Reading | None, str]:
        """-> what the engine says, or why there is nothing."""
        transport = self._transports[source.tls]
        try:
            async with asyncio.timeout(_TIMEOUT):
                response = await transport.handle_async_request(_request(source))
                try:
                    if response.status_code != 200:
                        return None, f"status {response.status_code}"
                    body = bytearray()
                    async for chunk in response.aiter_raw():
                        body += chunk
                        if len(body) > _BODY:
                            return None, f"more than {_BODY} bytes"
                finally:
                    await response.aclose()
        except TimeoutError:
            return None, f"no answer within {_TIMEOUT:g} s"
        except (httpx2.HTTPError, OSError) as error:
            return None, f"{type(error).__name__}: {error}"
        reading = read_engine(body.decode("utf-8", "replace"))
        return reading, "" if reading is not None else "no metrics of an engine that is known"

    def _note(self, url: str, why: str) -> None:
        """Once when it begins to say nothing, once when it speaks again."""
        if why and url not in self._silent:
            self._silent.add(url)
            _log.warning("endpoint %s does not tell its engine's load: %s", url, why)
        elif not why and url in self._silent:
            self._silent.discard(url)
            _log.info("endpoint %s tells its engine's load again", url)

    def __repr__(self) -> str:
        return f"<Engines of {len(self._tasks)} sources, {len(self._silent)} silent>"


def _request(source: Source) -> httpx2.Request:
    address = Address.parse(source.url)
    if source.port is not None:
        address = address._replace(port=source.port)
    url = f"{address.scheme}://{address.authority.decode()}{source.path}"
    extensions: dict[str, object] = {"timeout": {}}  # asyncio's deadline holds over all phases together
    if source.server_name:
        extensions["sni_hostname"] = source.server_name
    return httpx2.Request("GET", url, headers=_HEADERS, extensions=extensions)
