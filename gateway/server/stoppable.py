"""uvicorn's server without its own signals, for a process that a master tells what to do."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from time import monotonic
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from gateway.config.settings import Limits
from gateway.core.deadlines import Deadlines
from gateway.errors import Stopped
from gateway.server.accept import Acceptor, Reception
from gateway.server.bounds import Bounds
from gateway.server.protocol import EdgeConfig, EdgeProtocol

_log = logging.getLogger("gateway.worker")

# Seconds from our close to the end of TLS. The protocol's own deadline comes before it, and sees whether the client
# still takes what was written.
_GOODBYE = 3600.0
_GREETING = 2.0  # seconds that a stop waits for the handshake of a connection it has just accepted
_LOOK = 0.05  # seconds between two looks at whether all have left


def edge_config(app: ASGIApp, limits: Limits, deadlines: Deadlines, tls: Any = None) -> EdgeConfig:
    """uvicorn's configuration with our protocol, and without what uvicorn would do beside it. `tls`: an ssl context."""
    config = EdgeConfig(
        app,
        http=EdgeProtocol,
        interface="asgi3",
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ssl_context_factory=(lambda config, default: tls) if tls else None,
    )
    config.limits = Bounds(limits)
    config.deadlines = deadlines
    return config


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

    def __init__(self, config: uvicorn.Config, reception: Reception, *, handshake_timeout: float, grace: float) -> None:
        """`grace`: seconds in which requests may end when the server stops."""
        super().__init__(config)
        self.reception = reception
        self.handshake_timeout = handshake_timeout
        self.grace = grace
        self.acceptors: list[Acceptor] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, for sockets that are bound."""
        await self.lifespan.startup()
        self.servers = []
        for listener in sockets or ():
            self.listen(listener, self.config, self._tls())
        self.started = True

    def listen(self, listener: socket.socket, config: uvicorn.Config, tls: dict[str, Any]) -> None:
        """Accept from `listener` until the server stops."""

        def greet() -> EdgeProtocol:
            return EdgeProtocol(config, self.server_state, None)  # type: ignore[arg-type]  # it is an EdgeConfig

        acceptor = Acceptor(listener, self.reception, greet, tls)
        self.acceptors.append(acceptor)
        acceptor.start(self.server_state.connections)

    def _tls(self) -> dict[str, Any]:
        if not self.config.ssl:
            return {}
        handshake, shutdown = self.handshake_timeout, _GOODBYE
        return {"ssl": self.config.ssl, "ssl_handshake_timeout": handshake, "ssl_shutdown_timeout": shutdown}

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, let what runs end, and cut off what has not when the grace is over."""
        for acceptor in self.acceptors:
            acceptor.close()
        connections: set[Any] = self.server_state.connections
        began = monotonic()
        while (connections or (self._is_greeting() and monotonic() < began + _GREETING)) and (
            monotonic() < began + self.grace
        ):
            for connection in list(connections):
                if not connection.is_ending:
                    connection.shutdown()
            await asyncio.sleep(_LOOK)
        await self._cut_off(connections)
        for acceptor in self.acceptors:
            for task in list(acceptor.tasks):
                task.cancel()

    def _is_greeting(self) -> bool:
        return any(acceptor.tasks for acceptor in self.acceptors)

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
