"""What the claims of a proved token mean: until when, who, what for, and what the model server is told of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, NoReturn

from gateway.core.access import scopes_of, texts_of
from gateway.core.headers import field_text
from gateway.errors import Unauthenticated
from gateway.model import Header, Principal

_LONGEST_SUBJECT = 255  # OpenID Connect Core, 2
_MOST_GLOBS = 200  # each costs up to 50 us where it is first asked


@dataclass(frozen=True, slots=True)
class Trust:
    """What one issuer's tokens must be like."""

    issuer: str
    audience: tuple[str, ...]
    algorithms: frozenset[str]
    leeway: float
    models_claim: str | None
    headers: tuple[tuple[str, bytes], ...]  # claim, field name
    types: frozenset[str]
    max_age: float  # seconds
    scopes: frozenset[str]  # all of them
    required: tuple[tuple[str, frozenset[str]], ...]  # claim, one of these values; none: any


def check_shape(trust: Trust, claims: Mapping[str, Any]) -> None:
    """What every token must have, and for whom it is. Raises Unauthenticated."""
    if claims.get("exp") is None or not isinstance(claims.get("sub"), str):
        refuse(f"of {trust.issuer}: it lacks exp or sub")
    if not isinstance(claims.get("jti", ""), str):  # RFC 7519, 4.1.7
        refuse(f"of {trust.issuer}: its jti is not text")
    check_audience(trust, claims)


def check_audience(trust: Trust, claims: Mapping[str, Any]) -> None:
    """Raises Unauthenticated."""
    audience = claims.get("aud")
    if not trust.audience and not audience:
        return
    audience = [audience] if isinstance(audience, str) else audience
    # RFC 7519, 4.1.3: with none of ours, a token may name none.
    is_list = isinstance(audience, list) and all(isinstance(each, str) for each in audience)
    if not is_list or set(trust.audience).isdisjoint(audience or ()):
        refuse(f"of {trust.issuer}: it is for another audience")


def valid_until(trust: Trust, claims: Mapping[str, Any], now: float) -> float:
    """Until when the token is valid, in seconds since the epoch (RFC 7519, 4.1.4 to 4.1.6)."""
    until = valid_between(trust, claims, now)
    if trust.max_age < inf:
        until = min(until, _number(claims.get("iat")) + trust.max_age + trust.leeway)
    if now >= until:
        refuse("expired")
    return until


def valid_between(trust: Trust, claims: Mapping[str, Any], now: float) -> float:
    """The same, for a token that may lack all of its times."""
    until = _number(claims["exp"]) + trust.leeway if claims.get("exp") is not None else inf
    if now >= until:
        refuse("expired")
    if any(_number(claims[name]) > now + trust.leeway for name in ("nbf", "iat") if name in claims):
        refuse("not yet valid")
    return until


def check_claims(trust: Trust, claims: Mapping[str, Any]) -> None:
    """What the issuer's entry requires beyond what every token needs. Raises Unauthenticated."""
    for name, values in trust.required:
        claim = claims.get(name)
        if claim is None or (values and values.isdisjoint(texts_of(claim))):
            refuse(f"of {trust.issuer}: its claim {name} is not as required")
    if not trust.scopes <= scopes_of(claims):
        refuse(f"of {trust.issuer}: it lacks a scope")


def _number(value: Any) -> float:
    """RFC 7519, 2: a NumericDate is a JSON number, nothing that only looks like one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -(2**53) < value < 2**53:
        refuse("a time is not a number")
    return value


def principal_of(trust: Trust, claims: Mapping[str, Any], *, kind: str = "jwt", issuer: str | None = None) -> Principal:
    """`issuer` is whose subject it is, if not the entry's."""
    subject = claims["sub"]
    if not subject or len(subject) > _LONGEST_SUBJECT or not subject.isprintable():
        refuse("its subject cannot be logged")
    texts = ((name, header_value(claims.get(claim))) for claim, name in trust.headers)
    headers: tuple[Header, ...] = tuple((name, text) for name, text in texts if text is not None)
    grants = None if trust.models_claim is None else _globs(claims.get(trust.models_claim))
    return Principal(f"{issuer or trust.issuer}|{subject}", subject, kind, grants, claims, headers)


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
        items = [field_text(item) for item in claim if "," not in str(item)]
        texts = [item for item in items if item is not None]
        return b",".join(texts) if texts and len(texts) == len(claim) else None
    return json.dumps(claim).encode() if isinstance(claim, (bool, int, float)) else field_text(claim)


def refusal(reason: str) -> Unauthenticated:
    error = Unauthenticated()
    error.add_note(f"a token {reason}")
    return error


def refuse(reason: str) -> NoReturn:
    raise refusal(reason)
