"""A handshake that fails says why: the TLS alert reaches the client (RFC 8446, 6.2).

asyncio and uvloop close the connection as soon as `do_handshake` raises, without sending what OpenSSL has just written
for the client, which then sees a connection that ended for no reason. Both send it when the handshake wants to
read; so that is what it says, once, and it fails at whatever comes next: the client closing, its next byte, or the
handshake's deadline.
"""

import ssl
from typing import Protocol


class Tally(Protocol):
    """Counts handshakes; `core/metrics.py` has one."""

    def count_handshake(self, version: str, cipher: str) -> None: ...

    def count_failed_handshake(self, reason: str) -> None: ...


class AlertingObject(ssl.SSLObject):
    """The TLS state of one connection."""

    outgoing: ssl.MemoryBIO
    tally: Tally | None = None
    _failure: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLSyscallError):
            raise
        except ssl.SSLError as error:
            if self.tally is not None:
                self.tally.count_failed_handshake((error.reason or type(error).__name__).lower())
            if not self.outgoing.pending:  # nothing to say, to one who spoke plain HTTP for instance
                raise
            self._failure = error
            raise ssl.SSLWantReadError from None
        if self.tally is not None:
            cipher = self.cipher()
            self.tally.count_handshake(self.version() or "", cipher[0] if cipher else "")


class AlertingContext(ssl.SSLContext):
    sslobject_class = AlertingObject
    tally: Tally | None = None  # of the connections that begin on this context

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        tls = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        if isinstance(tls, AlertingObject):
            tls.outgoing = outgoing
            tls.tally = self.tally
        return tls
