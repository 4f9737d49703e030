"""The kept-alive connections of a worker: a bounded LIFO stack per endpoint."""

import asyncio
import ssl
from ipaddress import ip_address
from typing import Final

from gateway.clock import monotonic
from gateway.core.deadlines import Deadlines
from gateway.core.endpoint import Address
from gateway.errors import ConnectFailed, ConnectTimeout, UpstreamUntrusted
from gateway.upstream.connection import Connection
from gateway.upstream.faults import why_refused
from gateway.upstream.name import Name

_IDLE_BOUND: Final = 512  # connections kept per endpoint; above it the oldest use is closed
_IDLE_SECONDS: Final = 50.0  # below the 60 s at which most servers close, so that we are the one who closes first


class Connections:
    """Connections to one address. LIFO: the warm ones are used, the surplus grows old and is closed."""

    __slots__ = ("address", "bound", "deadlines", "host_line", "idle", "loop", "name", "server_name", "tls")

    def __init__(
        self,
        address: Address,
        deadlines: Deadlines,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> None:
        """`tls` for https; `server_name` is asked for and verified instead of the address's host."""
        self.address = address
        self.host_line = b"\r\nhost: %b" % address.authority
        self.deadlines = deadlines
        self.loop = asyncio.get_running_loop()
        self.tls = tls
        self.server_name = (server_name or address.host) if tls else None
        self.name = None if _is_literal(address.host) else Name(address.host, address.port)
        self.bound = _IDLE_BOUND
        self.idle: list[Connection] = []

    def take(self) -> Connection | None:
        """A connection that stands ready, or None."""
        while self.idle:
            connection = self.idle.pop()
            if not connection.is_closed and not connection.transport.is_closing():
                return connection
        return None

    async def open(self, timeout: float) -> Connection:
        """A new connection within `timeout` seconds. Raises ConnectFailed, ConnectTimeout."""
        name = self.name
        try:
            async with asyncio.timeout(timeout):
                if name is None:
                    connection = await self._connect(self.address.host)
                else:
                    connection = await name.reach(self._connect, timeout)
        except TimeoutError as error:
            raise ConnectTimeout from error
        except ssl.SSLError as error:
            raise UpstreamUntrusted(why_refused(error)) from error
        except OSError as error:
            raise ConnectFailed from error
        return connection

    async def _connect(self, host: str) -> Connection:
        _, connection = await self.loop.create_connection(
            lambda: Connection(self.loop, self.deadlines),
            host,
            self.address.port,
            ssl=self.tls,
            server_hostname=self.server_name,
        )
        return connection

    def give_back(self, connection: Connection, *, is_sent: bool) -> None:
        """The exchange is over: keep the connection if it is clean (`is_sent`: all of the request went out)."""
        if connection.end(is_sent=is_sent):
            connection.idle_since = monotonic()
            self.idle.append(connection)
            if len(self.idle) > self.bound:
                self.idle.pop(0).abort()

    def trim(self, now: float) -> None:
        """Close what nobody used for a while; called now and then."""
        everything, self.idle = self.idle, []
        for connection in everything:
            if connection.is_closed or now - connection.idle_since > _IDLE_SECONDS:
                connection.abort()
            else:
                self.idle.append(connection)

    def close(self) -> None:
        """Keep none from now on: those in use are closed as they are given back."""
        self.bound = 0
        for connection in self.idle:
            connection.abort()
        self.idle = []

    def __repr__(self) -> str:
        return f"<Connections {self.address.host}:{self.address.port} idle={len(self.idle)}>"


def _is_literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
