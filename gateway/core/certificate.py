"""Who a client certificate proves: the rules of `auth.mtls`, and what a connection remembers of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gateway.model import Principal

PEER = "gateway.peer"  # in a request's scope: the `Peer`, where its connection was asked for a certificate


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A certificate that was verified in a handshake. `names` are its subjectAltNames, `DNS:…`, `URI:…` …"""

    der: bytes
    subject: str  # RFC 4514, as `issuer`
    common_name: str
    names: tuple[str, ...]
    issuer: str
    serial: int
    not_after: float  # seconds since 1970
    chain: tuple[bytes, ...] = ()  # DER of what the client sent behind it


@dataclass(frozen=True, slots=True)
class CallerRule:
    """What all must be so, of a certificate verified by `ca`; and what that means."""

    ca: str
    subject: str | None = None  # a glob
    san: str | None = None  # a glob of one of the names
    name: str | None = None
    grants: tuple[str, ...] | None = None

    def name_of(self, ca: str, certificate: ClientCertificate) -> str | None:
        """What the owner is called; None if the rule is not about this certificate."""
        if ca != self.ca or (self.subject is not None and not fnmatchcase(certificate.subject, self.subject)):
            return None
        if self.san is None:
            return self.name or plain_name(certificate)
        found = next((name for name in certificate.names if fnmatchcase(name, self.san)), None)
        return None if found is None else self.name or _value(found)


class Callers:
    """The principals of certificates. Without any rule, every certificate that was verified has one."""

    def __init__(self, rules: Iterable[CallerRule] = ()) -> None:
        self.rules = tuple(rules)

    def principal_of(self, ca: str, certificate: ClientCertificate) -> Principal | None:
        """None if no rule is about it. Of several the first counts."""
        if not self.rules:
            return _principal(ca, plain_name(certificate), None)
        for rule in self.rules:
            name = rule.name_of(ca, certificate)
            if name is not None:
                return _principal(ca, name, rule.grants)
        return None

    def __repr__(self) -> str:
        return f"<Callers {len(self.rules)} rules>"


class Peer:
    """Who is at the other end of a connection that was asked for a certificate. `ca` is the entry of `tls.client_ca`
    that asked; `certificate` is None if none was shown."""

    __slots__ = ("_callers", "_principal", "ca", "certificate", "fields")

    def __init__(self, ca: str, certificate: ClientCertificate | None) -> None:
        self.ca = ca
        self.certificate = certificate
        self.fields: dict[bytes, bytes] = {}  # what is told upstream, once it was written
        self._callers: Callers | None = None
        self._principal: Principal | None = None

    def principal(self, callers: Callers) -> Principal | None:
        """As `callers` have it; worked out once for all requests of the connection, until there are other rules."""
        if self._callers is not callers:
            found = self.certificate
            self._principal = None if found is None else callers.principal_of(self.ca, found)
            self._callers = callers
        return self._principal

    def __repr__(self) -> str:
        return f"<Peer of {self.ca}: {self.certificate.subject if self.certificate else 'no certificate'}>"


def plain_name(certificate: ClientCertificate) -> str:
    """Its common name, else the first of its names, else its whole subject."""
    return certificate.common_name or next(map(_value, certificate.names), "") or certificate.subject


def _value(name: str) -> str:
    return name.partition(":")[2]


def _principal(ca: str, name: str, grants: tuple[str, ...] | None) -> Principal:
    return Principal(id=f"mtls|{ca}|{name}", name=name, kind="mtls", grants=grants)
