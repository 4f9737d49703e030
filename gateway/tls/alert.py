"""A handshake that fails says why: the TLS alert reaches the client (RFC 8446, 6.2). And one may begin on another
context than the socket's, as its ClientHello has it.

asyncio and uvloop close the connection as soon as `do_handshake` raises, without sending what OpenSSL has just written
for the client, which then sees a connection that ended for no reason. Both send it when the handshake wants to
read; so that is what it says, once, and it fails at whatever comes next: the client closing, its next byte, or the
handshake's deadline.

The choice cannot be left to the callback for SNI. OpenSSL has decided by then whether a client is asked for its
certificate (SSL_set_SSL_CTX does not change that), and has no callback for what ALPN says that Python would pass on.
"""

import ssl
from collections.abc import Callable
from typing import Any, Protocol

from gateway.tls.hello import Incomplete


class Tally(Protocol):
    """Counts handshakes; `core/metrics.py` has one."""

    def count_handshake(self, version: str, cipher: str) -> None: ...

    def count_failed_handshake(self, reason: str) -> None: ...


class AlertingObject(ssl.SSLObject):
    """The TLS state of one connection."""

    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    tally: Tally | None = None
    choose: "Choose | None" = None
    client_ca = ""  # the entry of `tls.client_ca` that asked for a certificate
    is_validation = False
    _sslobj: Any
    _failure: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self.choose is not None:
            self._begin(self.choose)
        try:
            self._sslobj.do_handshake()  # as `SSLObject` does, and nothing else
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
            cipher = self._sslobj.cipher()
            self.tally.count_handshake(self._sslobj.version() or "", cipher[0] if cipher else "")
        if self.is_validation:  # nothing more is said, once the last of the handshake was sent (RFC 8737, 3)
            self._failure = ssl.SSLError(ssl.SSL_ERROR_ZERO_RETURN, "the connection was for a validation")
            raise ssl.SSLWantReadError

    def shorten(self) -> None:
        """What is called for each record, and at the end of a handshake, leads straight to OpenSSL: `SSLObject`'s own
        methods only hand it on. Not for an object that may yet begin on another context."""
        native: Any = self._sslobj
        own: Any = self
        own.read, own.write, own.pending = native.read, native.write, native.pending
        own.cipher, own.compression, own.getpeercert = native.cipher, native.compression, native.getpeercert

    def _begin(self, choose: "Choose") -> None:
        """Look at the ClientHello, and leave it to the context that it calls for. Raises SSLWantReadError until all of
        it is there."""
        hello = self.incoming.read()
        self.incoming.write(hello)
        try:
            context = choose(hello) if hello else None
        except Incomplete:
            raise ssl.SSLWantReadError from None
        if not hello:
            return
        self.choose = None
        if context is not None:
            # `SSLObject` has one attribute, and every method of it looks there: so it has been since Python 3.5.
            fresh: Any = ssl.SSLContext.wrap_bio(context, self.incoming, self.outgoing, server_side=True)
            self._sslobj = fresh._sslobj
            self._sslobj.owner = self  # whom OpenSSL's callbacks are given
            self.client_ca, self.is_validation = context.client_ca, context.is_validation


def can_begin_elsewhere() -> bool:
    """Whether `_begin` finds what it needs. Python promises nothing; 3.11 to 3.13 have it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls: Any = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    return hasattr(getattr(tls, "_sslobj", None), "owner")


class AlertingContext(ssl.SSLContext):
    sslobject_class = AlertingObject
    tally: Tally | None = None  # of the connections that begin on this context
    choose: "Choose | None" = None  # the context for a ClientHello; None: this one
    client_ca = ""  # the entry of `tls.client_ca` that it asks for certificates for
    is_validation = False  # an ACME CA looks for its proof: nothing is served

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
            tls.incoming, tls.outgoing = incoming, outgoing
            tls.tally = self.tally
            tls.choose = self.choose
            if self.choose is None:
                tls.shorten()
        return tls


Choose = Callable[[bytes], AlertingContext | None]
"""Raises `Incomplete` for the beginning of a ClientHello."""
