from hypothesis import given
from hypothesis import strategies as st

from gateway.tls.index import Index
from gateway.tls.pair import Pair

NOW = 1_000.0


def pair(name: str, *hosts: str, kind: str = "ECDSA P-256", since: float = 0.0, until: float = 2_000.0) -> Pair:
    addresses = tuple(host for host in hosts if host[0].isdigit())
    named = tuple(host for host in hosts if host not in addresses)
    return Pair(name, b"", b"", b"", named, addresses, kind.partition(" ")[0], since, until, ())


def answered_by(index: Index, host: str) -> list[str] | None:
    group = index.find(host)
    return None if group is None else sorted(pair.name for pair in group)


def default_of(*pairs: Pair, default: str = "") -> list[str]:
    return sorted(pair.name for pair in Index(pairs, default=default, now=NOW).default)


def test_an_exact_name_goes_before_a_wildcard() -> None:
    index = Index([pair("wild", "*.a.test"), pair("exact", "x.a.test")], now=NOW)
    assert answered_by(index, "x.a.test") == ["exact"]
    assert answered_by(index, "y.a.test") == ["wild"]


def test_a_wildcard_stands_for_exactly_one_label() -> None:
    index = Index([pair("wild", "*.a.test")], now=NOW)
    assert answered_by(index, "a.test") is None
    assert answered_by(index, "y.x.a.test") is None
    assert answered_by(index, ".a.test") == ["wild"]


def test_names_are_compared_without_case_and_without_the_root_dot() -> None:
    assert answered_by(Index([pair("a", "a.test")], now=NOW), "A.Test.") == ["a"]


def test_pairs_of_different_kinds_for_a_host_are_offered_together_one_of_each() -> None:
    rsa = pair("a.rsa", "a.test", kind="RSA 2048")
    index = Index([pair("a", "a.test", "b.test"), rsa, pair("z", "a.test", kind="RSA 4096")], now=NOW)
    assert answered_by(index, "a.test") == ["a", "a.rsa"]
    assert answered_by(index, "b.test") == ["a"]


def test_of_two_pairs_for_a_host_the_one_issued_last_answers() -> None:
    assert answered_by(Index([pair("a", "a.test", since=1), pair("b", "a.test", since=2)], now=NOW), "a.test") == ["b"]


def test_a_pair_that_is_valid_now_goes_before_one_that_is_not() -> None:
    pairs = [
        pair("now", "a.test", since=1),
        pair("soon", "a.test", since=1_500),
        pair("past", "a.test", since=2, until=9),
    ]
    assert answered_by(Index(pairs, now=NOW), "a.test") == ["now"]
    assert answered_by(Index(pairs, now=1_600), "a.test") == ["soon"]


def test_the_default_is_the_named_pair_then_default_then_one_with_an_address_then_the_first_by_name() -> None:
    named, default, address, first = pair("n"), pair("default"), pair("m", "192.0.2.1"), pair("a")
    assert default_of(first, named, address, default, default="n") == ["n"]
    assert default_of(first, named, address, default) == ["default"]
    assert default_of(first, named, address) == ["m"]
    assert default_of(first, named) == ["a"]
    assert default_of() == []


def test_a_named_default_that_is_missing_leaves_the_next_one() -> None:
    assert default_of(pair("b"), pair("a"), default="gone") == ["a"]


def test_with_the_default_go_the_pairs_of_other_kinds_for_the_same_hosts() -> None:
    rsa = pair("default.rsa", "b.test", "a.test", kind="RSA 2048")
    other = pair("other", "a.test", kind="Ed25519")
    newer = pair("newer", "a.test", "b.test", since=5)
    assert default_of(pair("default", "a.test", "b.test"), rsa, other, newer) == ["default", "default.rsa"]


LABELS = st.sampled_from(["a", "b", "c"])
HOSTS = st.lists(LABELS, min_size=1, max_size=3).map(".".join)
NAMES = st.one_of(HOSTS, HOSTS.map(lambda host: f"*.{host}"))
PAIRS = st.lists(
    st.tuples(st.lists(NAMES, max_size=3, unique=True), st.sampled_from(["ECDSA", "RSA"]), st.integers(0, 3)),
    max_size=6,
)


@given(PAIRS, HOSTS)
def test_the_answer_is_what_looking_at_every_certificate_would_give(
    drawn: list[tuple[list[str], str, int]], host: str
) -> None:
    pairs = [pair(str(n), *names, kind=kind, since=since) for n, (names, kind, since) in enumerate(drawn)]
    wildcard = "*." + host.partition(".")[2]
    expected: list[str] | None = None
    for wanted in (host, wildcard):
        if candidates := [pair for pair in pairs if wanted in pair.hosts]:
            kinds = {pair.kind for pair in candidates}
            best = (min((p for p in candidates if p.kind == k), key=lambda p: (-p.not_before, p.name)) for k in kinds)
            expected = sorted(pair.name for pair in best)
            break
    assert answered_by(Index(pairs, now=NOW), host) == expected
