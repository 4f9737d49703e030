"""Header fields: which travel, which are ours, and the rules of a route. Fields are (lower-case name, value) bytes."""

from collections.abc import Iterable, Sequence
from typing import Final, cast

from gateway.model import Edit, Header

# Bytes as numbers: `b"\n" in text` makes, and drops, an exception before it looks (1,600 instructions).
_NUL: Final = 0
_LF: Final = 10
_CR: Final = 13

_NAMES_KEPT: Final = 1000
_LONGEST_KEPT: Final = 64  # bytes

# RFC 9110, 7.6.1, and what RFC 2616 and practice (Proxy-Connection, Keep-Alive) add. TE too: we send no trailers on.
HOP_BY_HOP: Final = frozenset(
    (
        b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te",
        b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings",
    )
)  # fmt: skip

# Set by the gateway itself on what goes upstream; a client's own copies never pass.
REPLACED_UPSTREAM: Final = frozenset(
    (
        b"host", b"content-length", b"expect", b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host",
        b"x-forwarded-proto", b"x-forwarded-port", b"x-forwarded-prefix", b"x-forwarded-server", b"x-real-ip",
        b"x-request-id", b"x-model", b"x-model-version",
        b"x-original-url", b"x-rewrite-url",  # some frameworks take them for the path, which is matched and authorised
        b"proxy",  # CGI makes HTTP_PROXY of it, which programs take for their proxy (CVE-2016-5385)
    )
)  # fmt: skip

# Other words for who the client is. A proxy that is trusted may say them; nobody else may.
ADDRESS_CLAIMS: Final = frozenset(
    (
        b"cf-connecting-ip", b"client-ip", b"fastly-client-ip", b"true-client-ip", b"x-client-ip",
        b"x-cluster-client-ip", b"x-envoy-external-address", b"x-forwarded", b"x-original-forwarded-for",
        b"x-originating-ip", b"x-remote-addr", b"x-remote-ip",
    )
)  # fmt: skip

# What TLS knows of the caller: only the gateway says it, and only where a route asks for it (`pass_certificate`).
CERTIFICATE_FIELDS: Final = frozenset(
    (b"client-cert", b"client-cert-chain", b"x-client-cert", b"x-forwarded-client-cert")
)

# Never nominated by Connection: naming them would strip what the next hop needs (the "hop-by-hop abuse" attack).
_PROTECTED: Final = frozenset(
    (
        b"host", b"content-length", b"content-type", b"content-encoding", b"transfer-encoding", b"authorization",
        b"x-api-key", b"api-key", b"cookie", b"via",
    )
)  # fmt: skip


class Lines:
    """Writes fields as lines, each behind the end of the line before it, but for those whose names are `gone`."""

    __slots__ = ("gone", "known")

    def __init__(self, gone: frozenset[bytes] = frozenset()) -> None:
        self.gone = gone
        self.known: dict[bytes, bytes] = {}  # what comes before a field's value, by its name

    def pieces(self, headers: list[Header]) -> list[bytes]:
        """The lines in pieces to be joined. Raises ValueError for a name that would end its line."""
        known = self.known
        parts: list[bytes] = []
        for name, value in headers:
            prefix = known.get(name)
            if prefix is None:
                if name in self.gone:
                    continue
                prefix = self._prefix(name)
            parts.append(prefix)
            parts.append(value)
        return parts

    def _prefix(self, name: bytes) -> bytes:
        if _LF in name or _CR in name or _NUL in name:
            raise ValueError("a field's name contains a control character")
        prefix = b"\r\n%b: " % name
        if len(self.known) < _NAMES_KEPT and len(name) < _LONGEST_KEPT:  # beyond that, names are inventions
            self.known[name] = prefix
        return prefix


_NAMES: Final[dict[bytes, bytes]] = {}


def lower_case(name: bytes) -> bytes:
    """A field's name in lower case, one object for each: its hash is worked out once, not at every look."""
    known = _NAMES.get(name)
    return known if known is not None else _learn(name)


def _learn(name: bytes) -> bytes:
    lower = name.lower()
    if len(_NAMES) < _NAMES_KEPT and len(name) < _LONGEST_KEPT:
        lower = _NAMES[name] = _NAMES.setdefault(lower, lower)
    return lower


def serialise(headers: Iterable[Header]) -> bytes:
    """The fields as lines, each with its CR LF."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def is_broken(pieces: list[bytes]) -> bool:
    """Whether a control character in a value would end its line early. All of them at once: three looks."""
    values = b"".join(pieces[1::2])
    return _LF in values or _CR in values or _NUL in values


def get(headers: Iterable[Header], name: bytes) -> bytes | None:
    """The first value of a field, or None."""
    for key, value in headers:
        if key == name:
            return value
    return None


def get_all(headers: Iterable[Header], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def is_any(names: frozenset[bytes], headers: Iterable[Header]) -> bool:
    """Whether one of these fields is there."""
    for name, _ in headers:  # noqa: SIM110  a generator would be another object
        if name in names:
            return True
    return False


def without(headers: list[Header], gone: frozenset[bytes]) -> list[Header]:
    """A new list of the fields that are not `gone`."""
    # To a compiler a tuple of two is two variables, of which it makes a new tuple when one is kept; of any length, not.
    whole = cast("list[tuple[bytes, ...]]", headers)
    return cast("list[Header]", [header for header in whole if header[0] not in gone])


_MOST_SPELLINGS: Final = 6  # hyphens of a name that are varied one by one


def spellings(names: Iterable[bytes]) -> frozenset[bytes]:
    """Each name, and what CGI, WSGI and their kin cannot tell from it: they know of no hyphens, and make underscores of
    them. What only the gateway may say is not to be said by a client in another spelling."""
    found: set[bytes] = set()
    for name in names:
        first, *others = name.split(b"-")
        variants = [first]
        if len(others) > _MOST_SPELLINGS:
            variants, others = [name, name.replace(b"-", b"_")], []
        for part in others:
            variants = [variant + mark + part for variant in variants for mark in (b"-", b"_")]
        found.update(variants)
    return frozenset(found)


def field_text(text: object) -> bytes | None:
    """A text as a field's value, in UTF-8; None for what cannot be one without becoming another."""
    is_plain = isinstance(text, str) and text and text.isprintable() and text == text.strip()
    return text.encode() if is_plain and isinstance(text, str) else None


def nominated(connection: Iterable[bytes]) -> frozenset[bytes]:
    """The fields that values of Connection name (RFC 9110, 7.6.1), without those that it may not strip."""
    tokens = {token.strip().lower() for value in connection for token in value.split(b",")}
    return frozenset(tokens - _PROTECTED)


def compile_edit(set_: dict[str, str], add: dict[str, str], remove: Sequence[str]) -> Edit | None:
    """One function for a route's rules on one direction; None if there are none. `set` replaces, `add` appends."""
    if not (set_ or add or remove):
        return None
    placed = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in set_.items()]
    gone = spellings([name for name, _ in placed] + [name.lower().encode("latin-1") for name in remove])
    appended = placed + [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in add.items()]

    def edit(headers: list[Header]) -> list[Header]:
        kept = without(headers, gone)
        kept += appended
        return kept

    return edit
