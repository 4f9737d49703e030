"""Who may call a model: by the grants of a key or token, and where the model says so, by what a token claims."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from gateway.model import Principal

# What these may call, their own entries say; or the service that has let them in, knowing the model.
_BY_ENTRY = ("key", "mtls", "external")


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to be allowed: the token has the scope, or the claim holds the text; or it is the user."""

    scope: str | None
    claim: str | None
    contains: str | None
    methods: frozenset[str] = frozenset()  # empty: all
    versions: tuple[str, ...] = ()  # globs; empty: all
    user: str | None = None  # instead of a token's scope or claim: who it must be

    def admits(self, principal: Principal) -> bool:
        """A user has no claims, and a token's subject is no user, whatever it is called."""
        if self.user is not None:
            return principal.kind == "basic" and principal.name == self.user
        return self.is_met(principal.claims)

    def is_met(self, claims: Mapping[str, Any]) -> bool:
        if self.scope is not None:
            return self.scope in scopes_of(claims)
        return self.claim is not None and self.contains in texts_of(claim_at(claims, self.claim))


class Access:
    """Decides for one model. The own entry of a key or certificate says what it may call; the rules are for all who
    bring claims."""

    def __init__(self, model: str, versions: Sequence[str], rules: Iterable[Rule] = ()) -> None:
        self.model = model
        self.versions = tuple(versions)
        self.rules = tuple(rules)

    def versions_for(self, principal: Principal, method: str | None) -> tuple[str, ...]:
        """The versions that the principal may call, in their order. `method` None: by any method."""
        granted = tuple(version for version in self.versions if principal.may_call(self.model, version))
        if not self.rules or principal.kind in _BY_ENTRY or not granted:
            return granted
        met = [rule for rule in self.rules if _is_for(rule, method) and rule.admits(principal)]
        return tuple(version for version in granted if any(_covers(rule, version) for rule in met))

    def __repr__(self) -> str:
        return f"<Access {self.model} {list(self.versions)} {len(self.rules)} rules>"


def _is_for(rule: Rule, method: str | None) -> bool:
    return method is None or not rule.methods or method in rule.methods


def _covers(rule: Rule, version: str) -> bool:
    return not rule.versions or any(fnmatchcase(version, glob) for glob in rule.versions)


def claim_at(claims: Mapping[str, Any], name: str) -> Any:
    """The claim of this name; else, `realm_access.roles` is `roles` inside `realm_access`. None if there is none."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for step in name.split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def texts_of(claim: Any) -> set[str]:
    """What a claim holds, as text: itself, or the items of a list. `true` and 7 are as JSON writes them."""
    items = claim if isinstance(claim, list) else [claim]
    return {
        item if isinstance(item, str) else json.dumps(item) for item in items if isinstance(item, (str, int, float))
    }


def scopes_of(claims: Mapping[str, Any]) -> frozenset[str]:
    """RFC 8693, 4.2: `scope`, one text with spaces between; `scp` is what Entra ID and Okta call it, text or a list."""
    found: set[str] = set()
    for claim in (claims.get("scope"), claims.get("scp")):
        items = claim.split(" ") if isinstance(claim, str) else claim if isinstance(claim, list) else []
        found.update(item for item in items if isinstance(item, str) and item)
    return frozenset(found)
