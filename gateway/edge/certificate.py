"""Who a client certificate proves, and what the model server is told of it. The certificate itself was verified in the
handshake."""

import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from textwrap import wrap
from urllib.parse import quote

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.certificate import PEER, Callers, ClientCertificate, Peer
from gateway.core.headers import is_any, without
from gateway.edge.authenticate import CREDENTIALS
from gateway.edge.match import host_name
from gateway.errors import Forbidden, Misdirected, Unauthenticated
from gateway.model import Exchange, Principal

# There is no registered scheme for TLS itself, and RFC 9110, 15.5.2 wants one.
_CHALLENGE = [(b"www-authenticate", b'Certificate realm="models"')]


class ByCertificate:
    """Sets `exchange.principal` by the connection's certificate.

    Who offers a credential is judged by that, where the model takes credentials too (`otherwise`); where it does not,
    they are taken out, as they may open something else.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        callers: Callers,
        is_revoked: Callable[[Peer], bool],
        otherwise: ASGIApp | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`otherwise` authenticates who shows no certificate. `clock` gives seconds since the epoch."""
        self.app = app
        self._callers = callers
        self._is_revoked = is_revoked
        self._otherwise = otherwise
        self._clock = clock

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        peer: Peer | None = scope.get(PEER)
        is_shown = peer is not None and peer.certificate is not None
        if self._otherwise is not None and (not is_shown or is_any(CREDENTIALS, scope["headers"])):
            return self._otherwise(scope, receive, send)
        exchange: Exchange = scope["exchange"]
        exchange.principal = self._identify(peer)
        scope["headers"] = without(scope["headers"], CREDENTIALS)
        return self.app(scope, receive, send)

    def _identify(self, peer: Peer | None) -> Principal:
        """Raises Unauthenticated, Forbidden. A connection may be older than its certificate's end."""
        if peer is None or peer.certificate is None:
            raise Unauthenticated("A client certificate is needed.", headers=_CHALLENGE)
        if peer.certificate.not_after <= self._clock():
            raise Unauthenticated("The client certificate has expired.", headers=_CHALLENGE)
        if self._is_revoked(peer):
            raise Unauthenticated("The client certificate has been revoked.", headers=_CHALLENGE)
        principal = peer.principal(self._callers)
        if principal is None:
            raise Forbidden("This client certificate is nobody's who may call this gateway.")
        return principal

    def __repr__(self) -> str:
        return f"<ByCertificate {self._callers!r} or {self._otherwise!r}>"


class OneHost:
    """Refuses a request for a host whose handshake would have asked for another certificate: whoever shakes hands for
    one host must not come in through another's door (RFC 9110, 15.5.20)."""

    def __init__(self, app: ASGIApp, *, asked_at: Callable[[str], str]) -> None:
        """`asked_at` says which entry of `tls.client_ca` asks the clients of a host."""
        self.app = app
        self._asked_at = asked_at

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            exchange: Exchange = scope["exchange"]
            peer: Peer | None = scope.get(PEER)
            host = host_name(exchange.fields.get(b"host", b""))
            if self._asked_at(host) != ("" if peer is None else peer.ca):
                raise Misdirected
        return self.app(scope, receive, send)


class PassCertificate:
    """Right before the request is sent, so that no rule about headers writes such a field itself.

    A connection may be older than its certificate's end or revocation, and its request may be let in by something else:
    then nothing is told of it."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        fields: Sequence[str],
        is_revoked: Callable[[Peer], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives seconds since the epoch."""
        self.app = app
        self._fields = tuple(field.encode() for field in fields)
        self._is_revoked = is_revoked
        self._clock = clock

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        peer: Peer | None = scope.get(PEER)
        if peer is not None and peer.certificate is not None and self._counts(peer, peer.certificate):
            told = peer.fields
            for field in self._fields:
                if field not in told:
                    told[field] = _WRITERS[field](peer.certificate)
            fields = [(field, told[field]) for field in self._fields if told[field]]
            scope["headers"] = [*scope["headers"], *fields]
        return self.app(scope, receive, send)

    def _counts(self, peer: Peer, certificate: ClientCertificate) -> bool:
        return self._clock() < certificate.not_after and not self._is_revoked(peer)


def _as_bytes(certificate: ClientCertificate) -> bytes:
    """RFC 9440, 2.1."""
    return b":" + b64encode(certificate.der) + b":"


def _as_chain(certificate: ClientCertificate) -> bytes:
    """RFC 9440, 2.2; b"" if there is none, and so no such field."""
    return b", ".join(b":" + b64encode(each) + b":" for each in certificate.chain)


def _as_pem(certificate: ClientCertificate) -> bytes:
    """PEM, percent-encoded, as nginx has it (`$ssl_client_escaped_cert`)."""
    body = "\n".join(wrap(b64encode(certificate.der).decode(), 64))
    return quote(f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n", safe="").encode()


def _as_facts(certificate: ClientCertificate) -> bytes:
    """Its hash, subject and names, as Envoy has them."""
    facts = [f"Hash={sha256(certificate.der).hexdigest()}", f"Subject={_quoted(certificate.subject)}"]
    names = (name.partition(":") for name in certificate.names)
    facts += [f"{kind}={_quoted(value)}" for kind, _, value in names if kind in ("URI", "DNS")]
    return ";".join(facts).encode("ascii")


def _quoted(text: str) -> str:
    """Between quotes; what is not printable ASCII as RFC 4514, 2.4 writes it: a client chose these characters."""
    plain = "".join(chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:02X}" for byte in text.encode())
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_WRITERS: dict[bytes, Callable[[ClientCertificate], bytes]] = {
    b"client-cert": _as_bytes,
    b"client-cert-chain": _as_chain,
    b"x-client-cert": _as_pem,
    b"x-forwarded-client-cert": _as_facts,
}
