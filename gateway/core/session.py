"""Sticky sessions: a token that names a version and an endpoint, which only the gateways can read or write.

    token = base64url(expires:4  version:8  endpoint:8  mac:16)        48 characters, no padding
    jar   = token *("." token)                                         the cookie's value: one token for each model

`version` and `endpoint` are digests under a key, so that a token tells nothing, not even whether a guessed address is
right. All keys are derived from a secret and the model's name: a token of one model is noise to another. One cookie
serves all models of a host, so a token of another model is carried along, unread.
"""

import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from hmac import compare_digest
from typing import Final, NamedTuple

_NAME: Final = 8  # bytes of a digest: by accident two of a thousand endpoints are equal once in 10^13
_MAC: Final = 16  # bytes; 128 bits
_PAYLOAD: Final = 4 + 2 * _NAME
_TOKEN: Final = re.compile(rb"[A-Za-z0-9_-]{48}", re.ASCII)  # whole groups of four: one spelling for each token
_JAR: Final = 8  # tokens carried; the one used longest ago is left out first
_SHORTEST: Final = 16  # bytes of a secret
_TO_URLSAFE: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URLSAFE: Final = bytes.maketrans(b"-_", b"+/")


class Session(NamedTuple):
    """What a valid token says."""

    version: str
    url: str | None  # of the endpoint; None: that endpoint is gone, the version is not
    expires: int  # seconds since the epoch


def secrets_in(content: bytes) -> list[bytes]:
    """Of a file: text has one in each line, anything else is one."""
    lines = [line.strip() for line in content.splitlines()] if content.isascii() else [content]
    return [line for line in lines if line]


class Sessions:
    """The secrets: the first one signs, all of them verify, so that a new one is put in front and the old one taken
    out when its tokens have expired.

    Raises ValueError for no secret, or one shorter than 16 bytes.
    """

    __slots__ = ("_secrets",)

    def __init__(self, secrets: Sequence[bytes]) -> None:
        if not secrets:
            raise ValueError("sessions need a secret")
        if any(len(secret) < _SHORTEST for secret in secrets):
            raise ValueError(f"a secret of sessions has at least {_SHORTEST} bytes")
        self._secrets = tuple(secrets)

    def of(self, model: str, endpoints: Mapping[str, Iterable[str]]) -> "Book":
        """The sessions of one model, whose versions have these endpoints' URLs."""
        return Book([_Signer(secret, model, endpoints) for secret in self._secrets])

    def __repr__(self) -> str:
        return f"<Sessions of {len(self._secrets)} secrets>"


class Book:
    """Seals and opens the tokens of one model. Made by `Sessions.of`."""

    __slots__ = ("_signers",)

    def __init__(self, signers: Sequence["_Signer"]) -> None:
        self._signers = signers

    def seal(self, version: str, url: str, expires: float, jar: bytes = b"") -> bytes:
        """A cookie's value: a token for this endpoint, then those of `jar` that are other models'. Raises KeyError for
        an endpoint that is none of the model's."""
        token = self._signers[0].seal(version, url, int(expires))
        others = [other for other in _tokens(jar) if not self._is_own(other)]
        return b".".join([token, *others[: _JAR - 1]])

    def open(self, jar: bytes, now: float) -> Session | None:
        """The session in a cookie's value; None if it has none of this model, or one forged, expired or of a version
        that is gone."""
        for token in _tokens(jar):
            raw = binascii.a2b_base64(token.translate(_FROM_URLSAFE))
            for signer in self._signers:
                session = signer.open(raw, now)
                if session is not None:
                    return session
        return None

    def _is_own(self, token: bytes) -> bool:
        raw = binascii.a2b_base64(token.translate(_FROM_URLSAFE))
        return any(signer.may_trust(raw) for signer in self._signers)


class _Signer:
    """One secret, for one model."""

    __slots__ = ("endpoints", "mac_key", "name_key", "names", "versions")

    def __init__(self, secret: bytes, model: str, endpoints: Mapping[str, Iterable[str]]) -> None:
        root = blake2b(secret, digest_size=64, person=b"gateway.sessions").digest()
        self.mac_key = blake2b(model.encode(), key=root, digest_size=32, person=b"mac").digest()
        self.name_key = blake2b(model.encode(), key=root, digest_size=32, person=b"name").digest()
        self.versions: dict[bytes, str] = {}
        self.endpoints: dict[tuple[str, bytes], str] = {}
        self.names: dict[tuple[str, str], bytes] = {}  # the digests of version and endpoint, as a token has them
        for version, urls in endpoints.items():
            arm = self._digest(version)
            self.versions[arm] = version
            for url in urls:
                endpoint = self._digest(version, url)
                self.endpoints[version, endpoint] = url
                self.names[version, url] = arm + endpoint

    def seal(self, version: str, url: str, expires: int) -> bytes:
        payload = expires.to_bytes(4, "big") + self.names[version, url]
        return binascii.b2a_base64(payload + self._mac(payload), newline=False).translate(_TO_URLSAFE)

    def may_trust(self, raw: bytes) -> bool:
        return compare_digest(self._mac(raw[:_PAYLOAD]), raw[_PAYLOAD:])

    def open(self, raw: bytes, now: float) -> Session | None:
        if not self.may_trust(raw):
            return None
        expires = int.from_bytes(raw[:4], "big")
        version = self.versions.get(raw[4 : 4 + _NAME])
        if version is None or now >= expires:
            return None
        return Session(version, self.endpoints.get((version, raw[4 + _NAME : _PAYLOAD])), expires)

    def _mac(self, payload: bytes) -> bytes:
        return blake2b(payload, key=self.mac_key, digest_size=_MAC).digest()

    def _digest(self, *names: str) -> bytes:
        return blake2b("\0".join(names).encode(), key=self.name_key, digest_size=_NAME).digest()


def _tokens(jar: bytes) -> list[bytes]:
    """The well-formed tokens of a cookie's value; anything else in it is ignored, and so is what exceeds the bound."""
    return [token for token in jar.split(b".", _JAR)[:_JAR] if _TOKEN.fullmatch(token)]
