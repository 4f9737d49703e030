"""Who may call a model, by what a token claims."""

from typing import Any

import pytest

from gateway.core.access import Access, Rule, claim_at, scopes_of
from gateway.model import Principal

CLAIMS = {
    "groups": ["ml-team", 7, None, {"x": 1}, ["nested"]],
    "tenant": "acme",
    "admin": True,
    "realm_access": {"roles": ["user"]},
    "https://example.com/groups": ["a"],
    "a.b": "whole",
    "a": {"b": "inside"},
}


@pytest.mark.parametrize(
    ("claim", "contains"),
    [
        ("groups", "ml-team"),
        ("groups", "7"),
        ("tenant", "acme"),
        ("admin", "true"),
        ("realm_access.roles", "user"),
        ("https://example.com/groups", "a"),
        ("a.b", "whole"),
    ],
)
def test_a_claim_holds_a_text_that_it_is_or_lists(claim: str, contains: str) -> None:
    assert Rule(None, claim, contains).is_met(CLAIMS)


@pytest.mark.parametrize(
    ("claim", "contains"),
    [
        ("groups", "ml"),
        ("groups", "ml-team2"),
        ("groups", "nested"),
        ("groups", "null"),
        ("tenant", "acm"),
        ("tenant", "a"),
        ("admin", "1"),
        ("a.b", "inside"),
        ("realm_access", "roles"),
        ("realm_access.roles.user", "user"),
        ("tenant.acme", "acme"),
        ("absent", "None"),
        ("absent", ""),
    ],
)
def test_nothing_that_only_resembles_the_text_will_do(claim: str, contains: str) -> None:
    assert not Rule(None, claim, contains).is_met(CLAIMS)


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": "a b"}, {"a", "b"}),
        ({"scp": ["a", "b c", 1]}, {"a", "b c"}),
        ({"scope": "a", "scp": "b"}, {"a", "b"}),
        ({"scope": ""}, set()),
        ({"scope": {"a": 1}, "scp": 7}, set()),
        ({}, set()),
    ],
)
def test_scopes_are_read_from_either_claim(claims: dict[str, Any], scopes: set[str]) -> None:
    assert scopes_of(claims) == scopes


def test_a_claim_with_an_empty_value_is_found_by_its_whole_name_first() -> None:
    assert claim_at({"a.b": None, "a": {"b": 1}}, "a.b") is None


def test_rules_never_open_what_the_grants_do_not() -> None:
    access = Access("iris", ["v1", "v2"], [Rule("s", None, None, versions=("v*",))])
    claims = {"scope": "s"}
    assert access.versions_for(Principal("j", "j", "jwt", None, claims), None) == ("v1", "v2")
    assert access.versions_for(Principal("j", "j", "jwt", ("iris@v2",), claims), None) == ("v2",)
    assert access.versions_for(Principal("j", "j", "jwt", ("other",), claims), None) == ()
    assert access.versions_for(Principal("j", "j", "jwt", None, {}), None) == ()
