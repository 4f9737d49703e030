"""The listening sockets of a gateway: bound when it starts, or taken over from the gateway that it replaces.

A public address has one socket for each worker (SO_REUSEPORT), and the kernel spreads connections over them by hash.
The master keeps every one open, so that what waits in the queue of a worker that died is not lost: its successor
accepts it.
"""

import json
import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass

from gateway.config.settings import GatewaySettings
from gateway.server.zone import NAME as ZONE_NAME

VARIABLE = "GATEWAY_HANDOVER"  # what a master tells its successor, as JSON: numbers of inherited file descriptors
_BACKLOG = 4096  # connections that wait to be accepted, as nginx has 511 and HAProxy 4096


@dataclass(frozen=True)
class Handover:
    """What a successor inherits. `first_slot` is the first row of the zone that its workers may take."""

    https: list[int]
    http: list[int]
    admin: int
    zone: int
    first_slot: int
    predecessor: int  # a pid
    state_dir: str  # where it published
    claim: int = -1  # holds that folder

    @property
    def descriptors(self) -> list[int]:
        return [*self.https, *self.http, self.admin, self.zone, self.claim]

    def to_text(self) -> str:
        return json.dumps(self.__dict__)


def inherited(environ: MutableMapping[str, str] = os.environ) -> Handover | None:
    """What the master that started this process hands over; None in an ordinary start."""
    text = environ.pop(VARIABLE, None)
    if text is None:
        return None
    handover = Handover(**json.loads(text))
    try:  # not by our parent: it may have died since, and what it left is all that listens
        is_ours = os.readlink(f"/proc/self/fd/{handover.zone}").startswith(f"/memfd:{ZONE_NAME} ")
    except OSError:
        is_ours = False
    return handover if is_ours else None  # a variable that somebody's shell has kept


@dataclass(frozen=True)
class Listeners:
    """One https (and http) socket for each worker, and the operator's."""

    https: list[socket.socket]
    http: list[socket.socket]
    admin: socket.socket

    @classmethod
    def open(cls, gateway: GatewaySettings, count: int, handover: Handover | None = None) -> "Listeners":
        """Bind for `count` workers, or take over what still has the wanted address. Raises OSError naming the address.

        Taken over or not, an address that a predecessor listens on is shared with it until it is gone.
        """
        old = handover or Handover([], [], -1, -1, 0, 0, "")
        https = _public(gateway.https, count, old.https)
        http = _public(gateway.http, count, old.http) if gateway.http else _closed(old.http)
        admin = _taken([old.admin], gateway.admin) if handover else []
        return cls(https, http, admin[0] if admin else bind(gateway.admin))

    def close_public(self) -> None:
        for listener in (*self.https, *self.http):
            listener.close()

    def keep_only(self, index: int) -> None:
        """In the child that is worker number `index`: close what belongs to others."""
        self.admin.close()
        for sockets in (self.https, self.http):
            for other, listener in enumerate(sockets):
                if other != index:
                    listener.close()


def _public(address: tuple[str, int], count: int, inherited: list[int]) -> list[socket.socket]:
    """`count` sockets on one address. Raises OSError, also if a stranger listens there: SO_REUSEPORT alone would let
    two gateways share a port unawares, so the first bind of a fresh start is one that tolerates nobody."""
    taken = _taken(inherited, address)
    sockets = taken[:count]
    for surplus in taken[count:]:
        surplus.close()
    if not sockets:
        probe = bind(address)
        address = probe.getsockname()[:2]
        probe.close()
    return sockets + [bind(address, is_shared=True) for _ in range(count - len(sockets))]


def _closed(descriptors: list[int]) -> list[socket.socket]:
    """Nothing: an inherited socket that nobody accepts from must not go on listening."""
    for descriptor in descriptors:
        os.close(descriptor)
    return []


def _taken(descriptors: list[int], address: tuple[str, int]) -> list[socket.socket]:
    """The inherited sockets that listen on `address`; others are closed."""
    taken = []
    for descriptor in descriptors:
        listener = socket.socket(fileno=descriptor)
        if listener.getsockname()[:2] == (address[0], address[1]):
            listener.set_inheritable(False)
            taken.append(listener)
        else:
            listener.close()
    return taken


def bind(address: tuple[str, int], *, is_shared: bool = False) -> socket.socket:
    """A listening socket; `is_shared`: others may bind the same address. Raises OSError that names the address."""
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(is_shared))
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from None
    listener.setblocking(False)
    return listener
