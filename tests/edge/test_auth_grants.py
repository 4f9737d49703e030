"""May they: grants of models and of versions."""

import asyncio
from typing import Any

import pytest

from gateway.core.access import Access, Rule
from gateway.edge.authorize import Authorize
from gateway.errors import Forbidden, VersionNotFound
from gateway.model import ANONYMOUS, Exchange, Principal

VERSIONS = ("v1", "v2", "fp8")


async def behind(scope: Any, receive: Any, send: Any) -> None:
    scope["reached"] = True


def caller(*grants: str) -> Principal:
    return Principal(id="k", name="k", kind="key", grants=grants)


def call(layer: Authorize, principal: Principal, version: str | None = None, *, method: str = "POST") -> Exchange:
    exchange = Exchange("r", 0.0, "127.0.0.1")
    exchange.principal, exchange.version = principal, version
    scope: dict[str, Any] = {"exchange": exchange, "method": method}
    asyncio.run(layer(scope, None, None))
    assert scope["reached"]
    return exchange


def make(model: str = "iris") -> Authorize:
    return Authorize(behind, access=Access(model, VERSIONS))


@pytest.mark.parametrize(
    ("grants", "allowed"),
    [
        (("iris",), None),
        (("*",), None),
        (("ir*",), None),
        (("iris@*",), None),
        (("iris@",), None),
        (("*@*",), None),
        (("iris@v1", "iris@v2", "iris@fp8"), None),
        (("iris@v1",), ("v1",)),
        (("iris@v?",), ("v1", "v2")),
        (("*@fp8",), ("fp8",)),
        (("other", "iris@v2"), ("v2",)),
        (("iris@fp8", "iris@v1"), ("v1", "fp8")),
    ],
)
def test_a_grant_opens_its_versions_in_the_order_of_the_model(grants: tuple[str, ...], allowed: Any) -> None:
    layer = make()
    for _ in range(2):  # decided, then remembered
        assert call(layer, caller(*grants)).allowed_versions == allowed


@pytest.mark.parametrize(
    "grants",
    [(), ("other",), ("IRIS",), ("iri",), ("irises",), ("iris@v9",), ("@v1",), ("",), ("iris@V1",)],
)
def test_who_has_no_grant_for_the_model_is_forbidden(grants: tuple[str, ...]) -> None:
    layer = make()
    for version in (None, "v1", "v1"):
        with pytest.raises(Forbidden) as caught:
            call(layer, caller(*grants), version)
        assert (caught.value.status, caught.value.code, caught.value.kind) == (403, "forbidden", "permission_error")


def test_who_has_no_limits_may_call_all() -> None:
    unlimited = Principal(id="k", name="k", kind="key")
    assert call(make(), unlimited, "v2").allowed_versions is None


def test_a_named_version_must_be_granted() -> None:
    layer = make()
    assert call(layer, caller("iris@v1"), "v1").allowed_versions == ("v1",)
    with pytest.raises(Forbidden):
        call(layer, caller("iris@v1"), "v2")


def test_a_version_that_does_not_exist_is_not_found_for_those_who_may_call_the_model() -> None:
    with pytest.raises(VersionNotFound, match="'iris' has no version 'v9'"):
        call(make(), caller("iris@v1"), "v9")
    with pytest.raises(Forbidden):
        call(make(), caller("other"), "v9")


def test_a_name_with_a_slash_and_brackets_of_a_glob_mean_what_they_say() -> None:
    layer = make("meta-llama/Llama-3.1-8B")
    assert call(layer, caller("meta-llama/*@v[12]")).allowed_versions == ("v1", "v2")
    with pytest.raises(Forbidden):
        call(layer, caller("meta-llama/Llama-3.1-70B"))


def test_a_decision_is_remembered_for_the_grants_and_not_for_the_name() -> None:
    layer = make()
    assert call(layer, Principal("https://i/|alice", "alice", "jwt", ("iris",)))
    with pytest.raises(Forbidden):
        call(layer, Principal("https://i/|alice", "alice", "jwt", ("other",)))


def test_what_is_remembered_is_bounded() -> None:
    layer = make()
    for number in range(2100):
        with pytest.raises(Forbidden):
            call(layer, caller(f"other-{number}"))
    assert 0 < len(layer._decided) < 2000


def test_allowed_versions_keep_their_order() -> None:
    assert Access("iris", ["v2", "v1", "x"]).versions_for(caller("iris@v*"), None) == ("v2", "v1")
    assert Access("iris", ["v2", "x"]).versions_for(ANONYMOUS, None) == ("v2", "x")


def subject(grants: tuple[str, ...] | None = None, **claims: Any) -> Principal:
    return Principal("https://i/|alice", "alice", "jwt", grants, claims)


def ruled(*rules: Rule, **options: Any) -> Authorize:
    return Authorize(behind, access=Access("iris", VERSIONS, rules), **options)


def test_what_a_token_claims_is_decided_for_each_token_and_method() -> None:
    layer = ruled(Rule("call", None, None, frozenset(["POST"])), Rule("read", None, None, frozenset(["GET"]), ("v1",)))
    both, reader = subject(scope="call read"), subject(scope="read")
    for _ in range(2):  # decided, then remembered
        assert call(layer, both, method="POST").allowed_versions is None
        assert call(layer, both, method="GET").allowed_versions == ("v1",)
        assert call(layer, reader, method="GET").allowed_versions == ("v1",)
        with pytest.raises(Forbidden):
            call(layer, reader, method="POST")
        with pytest.raises(Forbidden):
            call(layer, reader, "v2", method="GET")


def test_what_a_key_may_call_the_key_says_and_no_rule_about_claims() -> None:
    layer = ruled(Rule("call", None, None))
    assert call(layer, caller("iris@v1"), method="GET").allowed_versions == ("v1",)
    with pytest.raises(Forbidden):
        call(layer, subject(), method="GET")


def test_decisions_about_claims_are_bounded_too() -> None:
    layer = ruled(Rule("call", None, None))
    for number in range(2100):
        assert call(layer, subject(scope="call", sub=str(number)), method="GET")
    assert 0 < len(layer._decided) < 2000


def test_a_version_of_a_hidden_model_that_may_not_be_called_does_not_exist() -> None:
    layer = Authorize(behind, access=Access("iris", VERSIONS), is_hidden=True)
    for version in ("v2", "v9"):
        with pytest.raises(VersionNotFound):
            call(layer, caller("iris@v1"), version)
