"""Taking connections off a listening socket: who finds room, what a trusted proxy announces, then TLS.

By hand and not by the loop's own server: that accepts whatever comes, closes it when descriptors run out, and offers no
moment before the handshake, which is the dearest thing a stranger can ask for. Where there is no room, nothing is
accepted: who comes waits in the kernel's queue.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple, cast

from gateway.core.client import Trust, unmap
from gateway.core.metrics import Totals
from gateway.server import announced
from gateway.server.protocol import EdgeProtocol
from gateway.server.room import Room, reap

_log = logging.getLogger("gateway.worker")

_BATCH = 64  # connections accepted in one turn of the loop
_PAUSE = 0.1  # seconds until it is looked again whether there is room
_SILENCE = 10.0  # seconds between two warnings
_PEEK = 4096

Address = tuple[str, int]


class Reception(NamedTuple):
    """What all listeners of a worker share."""

    room: Room
    totals: Totals
    trusts: Trust
    has_announcements: bool  # trusted proxies speak the PROXY protocol
    patience: float  # seconds for an announcement


class Acceptor:
    """One listening socket. `tls` are the loop's options for it, {} for none."""

    def __init__(
        self, listener: socket.socket, reception: Reception, greet: Callable[[], EdgeProtocol], tls: dict[str, Any]
    ) -> None:
        self.listener = listener
        self.reception = reception
        self.greet = greet
        self.tls = tls
        self.loop = asyncio.get_running_loop()
        self.tasks: set[asyncio.Task[None]] = set()  # connections that are not a protocol's yet
        self.connections: set[Any] = set()
        self.timer: asyncio.TimerHandle | None = None
        self.warned_at = 0.0
        self.is_ending = False

    def start(self, connections: set[Any]) -> None:
        """`connections`: the protocols that live, among which idle ones make room."""
        self.connections = connections
        self.loop.add_reader(self.listener.fileno(), self._accept)

    def close(self) -> None:
        """Take those who wait already, and nobody after them."""
        self.is_ending = True
        self.loop.remove_reader(self.listener.fileno())
        if self.timer is not None:
            self.timer.cancel()
        with contextlib.suppress(OSError):  # BlockingIOError: nobody is left
            while True:
                self._take(*self.listener.accept())
        self.listener.close()

    def _accept(self) -> None:
        for _ in range(_BATCH):
            if self.reception.room.is_full:
                self._pause("there is no room for more connections")
                return
            try:
                connection, peer = self.listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptors, no memory: what ends meanwhile gives some back
                self._pause(f"no connection can be accepted: {error.strerror}")
                return
            self._take(connection, peer)

    def _pause(self, why: str) -> None:
        self.loop.remove_reader(self.listener.fileno())
        self.timer = self.loop.call_later(_PAUSE, self._resume)
        closed = 0 if self.reception.room.is_shut else reap(list(self.connections))
        self.reception.totals.accept_pauses += 1
        if monotonic() >= self.warned_at + _SILENCE:
            self.warned_at = monotonic()
            _log.warning("%s; new ones wait, %d idle ones are closed", why, closed)

    def _resume(self) -> None:
        if not self.is_ending:
            self.loop.add_reader(self.listener.fileno(), self._accept)

    def _take(self, connection: socket.socket, peer: Any) -> None:
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host = unmap(str(peer[0])) if peer else ""
        is_trusted = self.reception.trusts(host)
        if is_trusted and self.reception.has_announcements:
            work = self._be_told(connection, host)
        else:
            leave = self.reception.room.enter(host, is_trusted=is_trusted)
            if leave is None:
                return self._refuse(connection, "address")
            work = self._serve(connection, None, leave)
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return None

    def _refuse(self, connection: socket.socket, reason: str) -> None:
        refused = self.reception.totals.connections_refused
        refused[reason] = refused.get(reason, 0) + 1
        connection.close()

    async def _be_told(self, connection: socket.socket, host: str) -> None:
        """A trusted proxy says for whom it speaks, before anything else."""
        room = self.reception.room
        leave = room.enter(host, is_trusted=True)
        assert leave is not None, "a trusted proxy may have any number"
        is_told = False
        try:
            async with asyncio.timeout(self.reception.patience):
                client = await self._announcement(connection)
            is_told = True
        except (OSError, ValueError, EOFError):
            return self._refuse(connection, "announcement")
        finally:  # also where a stop cancels it
            if not is_told:
                leave()
                connection.close()
        if client is not None:
            leave()
            leave = room.enter(unmap(client[0]), is_trusted=self.reception.trusts(client[0]))
            if leave is None:
                return self._refuse(connection, "address")
        return await self._serve(connection, client, leave)

    async def _announcement(self, connection: socket.socket) -> Address | None:
        """Reads the header and not a byte more: what follows is the TLS of the client. Raises OSError, ValueError,
        EOFError."""
        known = b""
        while True:
            with contextlib.suppress(BlockingIOError):
                seen = connection.recv(_PEEK, socket.MSG_PEEK)
                if not seen:
                    raise EOFError
                found = announced.parse(known + seen)
                taken = connection.recv(found.length - len(known) if found else len(seen))
                if found:
                    return found.client
                known += taken
            await self._readable(connection)

    async def _readable(self, connection: socket.socket) -> None:
        ready = self.loop.create_future()
        self.loop.add_reader(connection.fileno(), _set, ready)
        try:
            await ready
        finally:
            self.loop.remove_reader(connection.fileno())

    async def _serve(self, connection: socket.socket, client: Address | None, leave: Callable[[], None]) -> None:
        """Shake hands; from then on the connection is the protocol's, which gives its place back."""
        made: list[EdgeProtocol] = []

        def make() -> EdgeProtocol:
            protocol = self.greet()
            protocol.announced = client
            protocol.leave = leave
            made.append(protocol)
            return protocol

        try:
            await self.loop.connect_accepted_socket(make, connection, **self.tls)
        except OSError:  # a handshake that failed, which the TLS side has counted, or took too long
            pass
        finally:
            if not made or made[0].transport is None:
                leave()
                for protocol in made:
                    protocol.parser = cast(Any, None)  # the parser holds it, and the collector of cycles comes seldom

    def __repr__(self) -> str:
        return f"<Acceptor {self.listener.getsockname()} greeting={len(self.tasks)} {self.reception.room!r}>"


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
