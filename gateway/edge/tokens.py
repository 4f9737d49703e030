"""JWTs: who they say is calling, once everything about them is proved (RFC 7519, RFC 8725).

The issuer's entry in the configuration decides alone: which algorithms, keys, audience. A token's header only selects
among them; `jku`, `x5u`, `jwk` and `x5c`, by which a token would bring its own key, are never read. A verified token is
remembered, a long one by its hash, until it expires.
"""

import logging
import re
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Any, Final, Protocol

import jwt

from gateway.edge import jws
from gateway.edge.claims import Trust, check_claims, check_shape, principal_of, refusal, refuse, valid_until
from gateway.errors import StoreUnavailable, Unauthenticated
from gateway.model import Principal
from gateway.stores.keysets import KeySet, check_algorithms

_log = logging.getLogger("gateway.edge")

LONGEST_TOKEN = 16 * 1024  # bytes; refused before anything in it is parsed
_KEPT_WHOLE: Final = 1024  # bytes of a token that is remembered as it came; 10,000 of them are 10 MiB

# What may not be set from a claim: it frames the message or is the gateway's to say.
_UNSETTABLE = re.compile(
    r"host|connection|content-.*|transfer-encoding|te|trailer|upgrade|expect|keep-alive|proxy-.*|authorization|cookie"
    r"|forwarded|via|x-forwarded-.*|x-gateway-.*|x-request-id|x-api-key|api-key|x-model|x-model-version"
)
_FIELD_NAME = re.compile(r"[a-z0-9!#$%&'*+.^`|~-]+")  # RFC 9110, 5.1, without "_", which CGI cannot tell from "-"


class Issuer(Protocol):
    """An entry of `auth.jwt`, as far as tokens go."""

    @property
    def issuer(self) -> str: ...
    @property
    def audience(self) -> Sequence[str]: ...
    @property
    def algorithms(self) -> Sequence[str]: ...
    @property
    def leeway(self) -> float: ...
    @property
    def models_claim(self) -> str | None: ...
    @property
    def claims_to_headers(self) -> Mapping[str, str]: ...
    @property
    def types(self) -> Sequence[str]: ...
    @property
    def max_age(self) -> float | None: ...
    @property
    def scopes(self) -> Sequence[str]: ...
    @property
    def required_claims(self) -> Mapping[str, Sequence[str]]: ...
    @property
    def revoked_file(self) -> Path | None: ...


class UnknownKid(Unauthenticated):
    """The token names a key that its issuer did not have when last asked. Answered 401 like any other, but worth a
    new look at the issuer's keys."""

    def __init__(self, issuer: str) -> None:
        super().__init__()
        self.issuer = issuer


class Genuine(Unauthenticated):
    """The token is its issuer's, and still no good: whoever holds it may know why."""


class Tokens:
    """Verifies tokens for one worker; `adopt` gives it the issuers' keys."""

    def __init__(
        self, issuers: Sequence[Issuer], keys: Mapping[str, bytes] | None = None, *, remembered: int = 10_000
    ) -> None:
        """`keys` maps issuers to the text of their `KeySet`. `remembered` bounds the verified tokens kept; beyond it
        the one not seen for longest is verified again. Raises ValueError for entries that cannot be meant."""
        self._trusted: dict[str, Trust] = {}
        for entry in issuers:
            if entry.issuer in self._trusted:
                raise ValueError(f"issuer {entry.issuer!r} is there twice; which entry decides?")
            self._trusted[entry.issuer] = _trust(entry)
        names = (name for trust in self._trusted.values() for _, name in trust.headers)
        self.identity_headers = frozenset(names)
        self._sources: dict[str, bytes] = {}
        self._keys: dict[str, KeySet] = {}
        self._revoked: dict[str, frozenset[str]] = {}
        self._known: OrderedDict[bytes | str, tuple[Principal, float]] = OrderedDict()
        self._remembered = remembered
        self.adopt(keys or {})

    def revoke(self, ids: Mapping[str, Collection[str]]) -> None:
        """From now on tokens with these `jti`, by issuer, are refused; all others of before are not any more."""
        revoked = {issuer: frozenset(each) for issuer, each in ids.items()}
        if revoked != self._revoked:
            self._revoked = revoked
            self._known.clear()

    def adopt(self, keys: Mapping[str, bytes]) -> None:
        """Use these keys from now on. Tokens are verified anew if any of them changed: theirs may be withdrawn.

        A set without a key for the algorithms that are allowed now is as good as none yet.
        """
        sources = {issuer: text for issuer, text in keys.items() if issuer in self._trusted}
        if sources == self._sources:
            return
        self._sources = sources
        self._known.clear()
        self._keys = {}
        for issuer, text in sources.items():
            try:
                self._keys[issuer] = KeySet.parse(text, self._trusted[issuer].algorithms)
            except ValueError as error:
                _log.warning("the keys of %s are of no use: %s", issuer, error)

    def verify(self, token: bytes, now: float) -> Principal:
        """Whose token this is. `now` is seconds since the epoch.

        Raises Unauthenticated (UnknownKid), with a note for our own eyes only; StoreUnavailable if the issuer's keys
        have never been had.
        """
        if len(token) > LONGEST_TOKEN:
            refuse("longer than 16 KiB")
        # Of a longer one its digest, which is text, and so nobody's token. The dict compares all of what it looks up.
        key: bytes | str = token if len(token) <= _KEPT_WHOLE else sha256(token).hexdigest()
        known = self._known.get(key)
        if known is not None:
            if now >= known[1]:
                raise _genuine(refusal("expired"))
            self._known.move_to_end(key)
            return known[0]
        trust, claims = self._prove(token)
        try:
            check_shape(trust, claims)
            until = valid_until(trust, claims, now)
            check_claims(trust, claims)
            if claims.get("jti") in self._revoked.get(trust.issuer, ()):
                refuse(f"of {trust.issuer}: it is revoked")
            principal = principal_of(trust, claims)
        except Unauthenticated as error:
            raise _genuine(error) from error
        self._known[key] = principal, until
        if len(self._known) > self._remembered:
            self._known.popitem(last=False)
        return principal

    def _prove(self, token: bytes) -> tuple[Trust, dict[str, Any]]:
        """Everything but time."""
        try:
            parts = jws.split(token)
            claims = jws.read_object(parts.payload)
        except jws.Malformed as error:
            raise refusal(str(error)) from error
        issuer = claims.get("iss")
        trust = self._trusted.get(issuer) if isinstance(issuer, str) else None
        if trust is None:
            refuse("of an unknown issuer")
        if not parts.is_signed_by(self._choose_key(trust, parts.header)):
            refuse(f"of {trust.issuer}: its signature is wrong")
        return trust, claims

    def _choose_key(self, trust: Trust, header: dict[str, Any]) -> jwt.PyJWK:
        _check_header(trust, header)
        keys = self._keys.get(trust.issuer)
        if keys is None:
            raise StoreUnavailable(headers=[(b"retry-after", b"5")])
        kid = header.get("kid")
        key = keys.find(kid, header["alg"])
        if key is None:
            if kid is not None and not keys.has(kid):
                raise UnknownKid(trust.issuer)
            refuse(f"of {trust.issuer}: no key fits its header")
        return key

    def __repr__(self) -> str:
        return f"<Tokens of {sorted(self._trusted)} keys of {sorted(self._keys)} {len(self._known)} remembered>"


def _genuine(error: Unauthenticated) -> Genuine:
    genuine = Genuine()
    for note in error.__notes__:
        genuine.add_note(note)
    return genuine


def _trust(entry: Issuer) -> Trust:
    for name in entry.claims_to_headers.values():
        if not _FIELD_NAME.fullmatch(name.lower()) or _UNSETTABLE.fullmatch(name.lower()):
            raise ValueError(f"claims_to_headers: {name!r} cannot be set from a claim")
    headers = tuple((claim, name.lower().encode()) for claim, name in entry.claims_to_headers.items())
    required = [(claim, frozenset(values)) for claim, values in entry.required_claims.items()]
    if entry.revoked_file is not None:
        required.append(("jti", frozenset()))  # without one it could not be revoked
    return Trust(
        issuer=entry.issuer,
        audience=tuple(entry.audience),
        algorithms=check_algorithms(entry.algorithms),
        leeway=entry.leeway,
        models_claim=entry.models_claim,
        headers=headers,
        types=frozenset(_media_type(each) for each in entry.types),
        max_age=inf if entry.max_age is None else entry.max_age,
        scopes=frozenset(entry.scopes),
        required=tuple(required),
    )


def _check_header(trust: Trust, header: dict[str, Any]) -> None:
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in trust.algorithms:
        refuse(f"of {trust.issuer}: its algorithm is not allowed")
    if kid is not None and not isinstance(kid, str):
        refuse(f"of {trust.issuer}: its kid is not text")
    if header.keys() & {"crit", "b64", "zip", "enc"}:  # RFC 7515, 4.1.11: we understand no extension
        refuse(f"of {trust.issuer}: it needs an extension")
    # RFC 8725, 3.11: what an issuer signs for another purpose (a DPoP proof, a logout, a security event) is no access.
    if _media_type(header.get("typ")) not in trust.types:
        refuse(f"of {trust.issuer}: it is not an access token")


def _media_type(value: Any) -> str:
    """RFC 7515, 4.1.9: case does not count, `application/` may be left out. None stands for the usual."""
    if value is None:
        return "jwt"
    return value.lower().removeprefix("application/") if isinstance(value, str) else ""
