"""Whom a client certificate proves."""

import pytest

from gateway.core.certificate import CallerRule, Callers, ClientCertificate, Peer


def certificate(
    subject: str = "CN=alice,O=Example", common_name: str = "alice", names: tuple[str, ...] = ("DNS:a.test",)
) -> ClientCertificate:
    return ClientCertificate(b"", subject, common_name, names, "CN=CA", 1, 2e9)


def named(rule: CallerRule, **facts: object) -> str | None:
    found = Callers([rule]).principal_of("ca", certificate(**facts))  # type: ignore[arg-type]
    return None if found is None else found.name


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (CallerRule("ca"), "alice"),
        (CallerRule("other"), None),
        (CallerRule("ca", name="team"), "team"),
        (CallerRule("ca", subject="CN=*,O=Example"), "alice"),
        (CallerRule("ca", subject="CN=alice"), None),
        (CallerRule("ca", san="DNS:*.test"), "a.test"),
        (CallerRule("ca", san="URI:*"), None),
        (CallerRule("ca", san="DNS:*.test", name="team"), "team"),
        (CallerRule("ca", subject="CN=bob*", san="DNS:*.test"), None),
        (CallerRule("other", san="DNS:*.test"), None),
    ],
)
def test_a_rule_is_about_a_certificate_if_all_that_it_says_is_so(rule: CallerRule, name: str | None) -> None:
    assert named(rule) == name


def test_a_name_of_one_kind_is_no_name_of_another() -> None:
    assert named(CallerRule("ca", san="DNS:a.test"), names=("email:a.test", "URI:a.test")) is None


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({}, "alice"),
        ({"common_name": ""}, "a.test"),
        ({"common_name": "", "names": ("URI:spiffe://x/y",)}, "spiffe://x/y"),
        ({"common_name": "", "names": ()}, "CN=alice,O=Example"),
    ],
)
def test_without_any_rule_everybody_is_called_by_what_there_is(facts: dict[str, object], name: str) -> None:
    found = Callers().principal_of("ca", certificate(**facts))  # type: ignore[arg-type]
    assert found is not None
    assert (found.id, found.name, found.kind, found.grants) == (f"mtls|ca|{name}", name, "mtls", None)


def test_the_first_rule_that_fits_counts_and_its_models_are_the_grants() -> None:
    rules = [CallerRule("ca", subject="CN=bob*"), CallerRule("ca", grants=("m@v1",)), CallerRule("ca", name="late")]
    found = Callers(rules).principal_of("ca", certificate())
    assert found is not None
    assert found.may_call("m", "v1")
    assert not found.may_call("m", "v2")


def test_a_connection_remembers_its_principal_until_the_rules_change() -> None:
    peer, first, second = Peer("ca", certificate()), Callers(), Callers([CallerRule("other")])
    assert peer.principal(first) is peer.principal(first)
    assert peer.principal(second) is None
    assert Peer("ca", None).principal(first) is None
