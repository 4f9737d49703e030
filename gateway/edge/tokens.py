"""JWTs: who they say is calling, once everything about them is proved (RFC 7519, RFC 8725).

The issuer's entry in the configuration decides alone: which algorithms, keys, audience. A token's header only selects
among them; `jku`, `x5u`, `jwk` and `x5c`, by which a token would bring its own key, are never read. A verified token is
remembered, by its hash, until it expires.
"""

import json
import logging
import re
from base64 import urlsafe_b64decode
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NoReturn, Protocol

import jwt

from gateway.errors import StoreUnavailable, Unauthenticated
from gateway.model import Header, Principal
from gateway.stores.keysets import KeySet, check_algorithms

_log = logging.getLogger("gateway.edge")

LONGEST_TOKEN = 16 * 1024  # bytes; refused before anything in it is parsed
_LONGEST_SUBJECT = 255  # OpenID Connect Core, 2
_MOST_GLOBS = 200  # each costs up to 50 us where it is first asked
_COMPACT = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+")  # RFC 7515, 3.1: no padding

# RFC 8725, 3.11: what an issuer signs for another purpose (a DPoP proof, a logout or security event) is no access.
_TYPES = ("jwt", "at+jwt")

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


class UnknownKid(Unauthenticated):
    """The token names a key that its issuer did not have when last asked. Answered 401 like any other, but worth a
    new look at the issuer's keys."""

    def __init__(self, issuer: str) -> None:
        super().__init__()
        self.issuer = issuer


@dataclass(frozen=True, slots=True)
class _Trust:
    """What one issuer's tokens must be like."""

    issuer: str
    audience: tuple[str, ...]
    algorithms: frozenset[str]
    leeway: float
    models_claim: str | None
    headers: tuple[tuple[str, bytes], ...]  # claim, field name


class Tokens:
    """Verifies tokens for one worker; `adopt` gives it the issuers' keys."""

    def __init__(
        self, issuers: Sequence[Issuer], keys: Mapping[str, bytes] | None = None, *, remembered: int = 10_000
    ) -> None:
        """`keys` maps issuers to the text of their `KeySet`. `remembered` bounds the verified tokens kept; beyond it
        the one not seen for longest is verified again. Raises ValueError for entries that cannot be meant."""
        self._trusted: dict[str, _Trust] = {}
        for entry in issuers:
            if entry.issuer in self._trusted:
                raise ValueError(f"issuer {entry.issuer!r} is there twice; which entry decides?")
            self._trusted[entry.issuer] = _trust(entry)
        names = (name for trust in self._trusted.values() for _, name in trust.headers)
        self.identity_headers = frozenset(names)
        self._sources: dict[str, bytes] = {}
        self._keys: dict[str, KeySet] = {}
        self._known: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()
        self._remembered = remembered
        self.adopt(keys or {})

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
            _refuse("longer than 16 KiB")
        digest = sha256(token).digest()
        known = self._known.get(digest)
        if known is not None:
            if now >= known[1]:
                _refuse("expired")
            self._known.move_to_end(digest)
            return known[0]
        trust, claims = self._prove(token)
        until = _check_times(claims, now, trust.leeway)
        principal = _principal(trust, claims)
        self._known[digest] = principal, until
        if len(self._known) > self._remembered:
            self._known.popitem(last=False)
        return principal

    def _prove(self, token: bytes) -> tuple[_Trust, dict[str, Any]]:
        """Everything but time."""
        header, unproved = _peek(token)
        issuer = unproved.get("iss")
        trust = self._trusted.get(issuer) if isinstance(issuer, str) else None
        if trust is None:
            _refuse("of an unknown issuer")
        key = self._choose_key(trust, header)
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=trust.audience or None,  # RFC 7519, 4.1.3: with none of ours, a token may name none
                issuer=trust.issuer,
                options={
                    "require": ["exp", "iss", "sub"],
                    "verify_exp": False,  # the three times are checked against the caller's clock
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except jwt.PyJWTError as error:
            raise _refusal(f"of {trust.issuer}: {type(error).__name__}") from error
        return trust, claims

    def _choose_key(self, trust: _Trust, header: dict[str, Any]) -> jwt.PyJWK:
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in trust.algorithms:
            _refuse(f"of {trust.issuer}: its algorithm is not allowed")
        if kid is not None and not isinstance(kid, str):
            _refuse(f"of {trust.issuer}: its kid is not text")
        if header.keys() & {"crit", "b64", "zip", "enc"}:  # RFC 7515, 4.1.11: we understand no extension
            _refuse(f"of {trust.issuer}: it needs an extension")
        if _media_type(header.get("typ")) not in _TYPES:
            _refuse(f"of {trust.issuer}: it is not an access token")
        keys = self._keys.get(trust.issuer)
        if keys is None:
            raise StoreUnavailable(headers=[(b"retry-after", b"5")])
        key = keys.find(kid, algorithm)
        if key is None:
            if kid is not None and not keys.has(kid):
                raise UnknownKid(trust.issuer)
            _refuse(f"of {trust.issuer}: no key fits its header")
        return key

    def __repr__(self) -> str:
        return f"<Tokens of {sorted(self._trusted)} keys of {sorted(self._keys)} {len(self._known)} remembered>"


def _trust(entry: Issuer) -> _Trust:
    for name in entry.claims_to_headers.values():
        if not _FIELD_NAME.fullmatch(name.lower()) or _UNSETTABLE.fullmatch(name.lower()):
            raise ValueError(f"claims_to_headers: {name!r} cannot be set from a claim")
    headers = tuple((claim, name.lower().encode()) for claim, name in entry.claims_to_headers.items())
    algorithms = check_algorithms(entry.algorithms)
    return _Trust(entry.issuer, tuple(entry.audience), algorithms, entry.leeway, entry.models_claim, headers)


def _peek(token: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, nothing of them proved."""
    match = _COMPACT.fullmatch(token)
    if match is None:
        _refuse("not three parts of base64url")
    try:
        header, claims = (json.loads(_decode(part), **_STRICT) for part in match.groups())
    except (ValueError, RecursionError) as error:
        raise _refusal("not JSON") from error
    if not isinstance(header, dict) or not isinstance(claims, dict):
        _refuse("not JSON objects")
    return header, claims


def _decode(part: bytes) -> str:
    return urlsafe_b64decode(part + b"=" * (-len(part) % 4)).decode("utf-8")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """RFC 7515, 4 and RFC 7519, 4: two readers may not see two different tokens."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name occurs twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_STRICT: dict[str, Any] = {"object_pairs_hook": _unique, "parse_constant": _refuse_constant}


def _media_type(value: Any) -> str:
    """RFC 7515, 4.1.9: case does not count, `application/` may be left out. None stands for the usual."""
    if value is None:
        return "jwt"
    return value.lower().removeprefix("application/") if isinstance(value, str) else ""


def _check_times(claims: Mapping[str, Any], now: float, leeway: float) -> float:
    """Until when the token is valid, in seconds since the epoch (RFC 7519, 4.1.4 to 4.1.6)."""
    until = _number(claims["exp"]) + leeway
    if now >= until:
        _refuse("expired")
    if any(_number(claims[name]) > now + leeway for name in ("nbf", "iat") if name in claims):
        _refuse("not yet valid")
    return until


def _number(value: Any) -> float:
    """RFC 7519, 2: a NumericDate is a JSON number, nothing that only looks like one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -(2**53) < value < 2**53:
        _refuse("a time is not a number")
    return value


def _principal(trust: _Trust, claims: dict[str, Any]) -> Principal:
    subject = claims["sub"]
    if not subject or len(subject) > _LONGEST_SUBJECT or not subject.isprintable():
        _refuse("its subject cannot be logged")
    texts = ((name, header_value(claims.get(claim))) for claim, name in trust.headers)
    headers: tuple[Header, ...] = tuple((name, text) for name, text in texts if text is not None)
    grants = None if trust.models_claim is None else _globs(claims.get(trust.models_claim))
    return Principal(f"{trust.issuer}|{subject}", subject, "jwt", grants, claims, headers)


def _globs(claim: Any) -> tuple[str, ...]:
    """A list of texts, or one text with spaces between, as OAuth's scopes have it. Anything else grants nothing."""
    globs = claim.split() if isinstance(claim, str) else claim
    if not isinstance(globs, list) or len(globs) > _MOST_GLOBS or not all(isinstance(glob, str) for glob in globs):
        return ()
    return tuple(globs)


def header_value(claim: Any) -> bytes | None:
    """A claim as a field's value, in UTF-8; None for what cannot be one without becoming another.

    `"root\\r"`, `" root"` and `["a,b"]` are not repaired: what is left out grants nothing, what is repaired might.
    """
    if isinstance(claim, list):
        if not all(isinstance(item, str) and "," not in item and header_value(item) for item in claim) or not claim:
            return None
        return ",".join(claim).encode()
    if isinstance(claim, bool):
        return b"true" if claim else b"false"
    if isinstance(claim, (int, float)):
        return str(claim).encode()
    if not isinstance(claim, str) or not claim.isprintable() or claim != claim.strip() or not claim:
        return None
    return claim.encode()


def _refusal(reason: str) -> Unauthenticated:
    error = Unauthenticated()
    error.add_note(f"a token {reason}")
    return error


def _refuse(reason: str) -> NoReturn:
    raise _refusal(reason)
