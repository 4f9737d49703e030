"""uvicorn's server without its own signals, for a process that a master tells what to do."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

_GOODBYE = 5.0  # seconds for a client's close_notify; it has all of its answer by then


class Stoppable(uvicorn.Server):
    """Ends when `stop` is called. uvicorn's own handlers would raise the signal again at the end, which kills the
    process before it has tidied up."""

    def stop(self) -> None:
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class EdgeServer(Stoppable):
    """Gives a TLS handshake a deadline, which uvicorn leaves at asyncio's minute."""

    def __init__(self, config: uvicorn.Config, handshake_timeout: float) -> None:
        super().__init__(config)
        self.handshake_timeout = handshake_timeout

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, for sockets that are bound."""
        config, loop = self.config, asyncio.get_running_loop()
        await self.lifespan.startup()

        def connected() -> asyncio.Protocol:
            protocol: Any = config.http_protocol_class
            return protocol(config=config, server_state=self.server_state, app_state=self.lifespan.state)  # type: ignore[no-any-return]

        self.servers = [
            await loop.create_server(
                connected,
                sock=listener,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=self.handshake_timeout if config.ssl else None,
                ssl_shutdown_timeout=_GOODBYE if config.ssl else None,
            )
            for listener in sockets or ()
        ]
        self.started = True
