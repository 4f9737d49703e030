"""A model server that has a name: its addresses are asked for by one lookup at a time, and remembered.

A lookup holds one of the few threads that the loop has for them, for as long as the resolver says nothing, and nothing
ends it before. With one for each connection, a name that nobody answers for keeps all others from being looked up.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeVar

_PATIENCE = 0.5  # seconds for a lookup, from its beginning, before the addresses that are known are used
_GONE = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))  # answers; all others are none

T = TypeVar("T")


class Name:
    """One for each endpoint that has one."""

    __slots__ = ("began", "error", "host", "known", "lookup", "port")

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.known: list[str] = []  # addresses, of the last lookup that was answered
        self.error: OSError | None = None  # of the last one, if it failed
        self.lookup: asyncio.Task[None] | None = None  # under way
        self.began = 0.0

    async def reach(self, connect: Callable[[str], Awaitable[T]], seconds: float) -> T:
        """Connect to the first address that lets us, each in its share of the time. Raises OSError, TimeoutError."""
        end = monotonic() + seconds
        addresses = await self.addresses()
        for left in range(len(addresses), 1, -1):
            try:
                async with asyncio.timeout((end - monotonic()) / left):
                    return await connect(addresses[-left])
            except ssl.SSLError:  # it is there, and not whom it should be
                raise
            except OSError:  # TimeoutError is one
                continue
        return await connect(addresses[-1])

    async def addresses(self) -> list[str]:
        """At least one. Raises OSError."""
        if self.lookup is None:
            self.began = monotonic()
            self.lookup = asyncio.get_running_loop().create_task(self._look_up())
        patience = max(self.began + _PATIENCE - monotonic(), 0.0) if self.known else None
        await asyncio.wait([self.lookup], timeout=patience)
        if not self.known:
            raise self.error or OSError(f"{self.host} has no address")
        return self.known

    async def _look_up(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
            self.known = [str(address[0]) for *_, address in found]
            self.error = None
        except OSError as error:
            self.error = error
            if error.errno in _GONE:
                self.known = []
        finally:
            self.lookup = None

    def __repr__(self) -> str:
        return f"<Name {self.host} {self.known} error={self.error!r} asking={self.lookup is not None}>"
