"""uvicorn's server without its own signals, for a process that a master tells what to do."""

import asyncio
import contextlib
import logging
import math
import socket
from collections.abc import Iterator
from time import monotonic
from typing import Any

import uvicorn

from gateway.errors import Stopped

_log = logging.getLogger("gateway.worker")

_GOODBYE = 5.0  # seconds for a client's close_notify; it has all of its answer by then
_GREETING = 2.0  # seconds that a stop waits for the handshake of a connection it has just accepted
_LOOK = 0.05  # seconds between two looks at whether all have left


class Stoppable(uvicorn.Server):
    """Ends when `stop` is called. uvicorn's own handlers would raise the signal again at the end, which kills the
    process before it has tidied up."""

    def stop(self) -> None:
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class EdgeServer(Stoppable):
    """The public side: a TLS handshake has a deadline, which uvicorn leaves at asyncio's minute, and a stop loses
    nobody: neither who waits to be accepted, nor who is in the middle of a handshake."""

    def __init__(self, config: uvicorn.Config, *, handshake_timeout: float, grace: float) -> None:
        """`grace`: seconds in which requests may end when the server stops."""
        super().__init__(config)
        self.handshake_timeout = handshake_timeout
        self.grace = grace
        self.others: list[asyncio.Server] = []  # listeners that close with it
        self.accepted_at = -math.inf

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, for sockets that are bound."""
        await self.lifespan.startup()
        loop, backlog = asyncio.get_running_loop(), self.config.backlog
        self.servers = [
            await loop.create_server(self._greet, sock=listener, backlog=backlog, **self._tls())
            for listener in sockets or ()
        ]
        self.started = True

    def _tls(self) -> dict[str, Any]:
        if not self.config.ssl:
            return {}
        handshake, shutdown = self.handshake_timeout, _GOODBYE
        return {"ssl": self.config.ssl, "ssl_handshake_timeout": handshake, "ssl_shutdown_timeout": shutdown}

    def _greet(self) -> asyncio.Protocol:
        self.accepted_at = monotonic()
        protocol: Any = self.config.http_protocol_class
        return protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)  # type: ignore[no-any-return]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, let what runs end, and cut off what has not when the grace is over."""
        waiting = [listener.dup() for listener in sockets or ()]
        for server in (*self.servers, *self.others):
            server.close()
        greetings = [self._accept(connection) for listener in waiting for connection in _accepted(listener)]
        tasks = [asyncio.create_task(greeting) for greeting in greetings]
        if tasks:
            self.accepted_at = monotonic()
        connections: set[Any] = self.server_state.connections
        end = monotonic() + self.grace
        while (connections or monotonic() < self.accepted_at + _GREETING) and monotonic() < end:
            for connection in list(connections):
                if not connection.is_ending:
                    connection.shutdown()
            await asyncio.sleep(_LOOK)
        await self._cut_off(connections)
        for task in tasks:
            task.cancel()

    async def _accept(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(self._greet, connection, **self._tls())

    async def _cut_off(self, connections: set[Any]) -> None:
        """End what still runs; it is logged and counted as ended by us."""
        answers = [connection.answer for connection in connections if connection.answer is not None]
        if not answers:
            return
        _log.warning("%d requests are cut off: they did not end in time", len(answers))
        for answer in answers:
            if answer.exchange.error is None:
                answer.exchange.error = Stopped()
            answer.task.cancel()
        await asyncio.wait([answer.task for answer in answers], timeout=1.0)


def _accepted(listener: socket.socket) -> Iterator[socket.socket]:
    """Whoever connected since the loop last looked; they would be reset when the last descriptor closes."""
    with listener, contextlib.suppress(OSError):  # BlockingIOError: nobody is left
        while True:
            yield listener.accept()[0]
