from collections import Counter
from math import sqrt
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.split import Split

DRAWS = 4000
weights = st.dictionaries(st.sampled_from("abcdef"), st.one_of(st.none(), st.floats(0, 100)), min_size=1, max_size=6)


def draw(split: Split, allowed: tuple[str, ...] | None = None) -> Counter[str | None]:
    rng = Random(7)
    return Counter(split.choose(rng, allowed) for _ in range(DRAWS))


def test_traffic_is_split_by_weight() -> None:
    seen = draw(Split({"a": 75, "b": 25, "c": None, "d": 0}, None))
    assert set(seen) == {"a", "b"}
    sigma = sqrt(DRAWS * 0.75 * 0.25)
    assert abs(seen["a"] - 0.75 * DRAWS) < 5 * sigma


def test_weights_win_over_the_default() -> None:
    assert set(draw(Split({"a": 1, "b": None}, "b"))) == {"a"}


@pytest.mark.parametrize(("default", "chosen"), [("a", "a"), ("b", "b"), (None, "c")])
def test_without_weights_the_default_serves_and_without_one_the_last_version(default: str | None, chosen: str) -> None:
    assert set(draw(Split({"a": None, "b": None, "c": None}, default))) == {chosen}


def test_who_may_call_some_versions_only_gets_their_shares_among_themselves() -> None:
    split = Split({"a": 50, "b": 30, "c": 20}, None)
    seen = draw(split, ("b", "c"))
    assert set(seen) == {"b", "c"}
    assert abs(seen["b"] - 0.6 * DRAWS) < 5 * sqrt(DRAWS * 0.6 * 0.4)
    assert set(draw(split, ("a",))) == {"a"}


def test_who_may_call_no_version_with_a_share_gets_the_default_if_allowed_else_what_is() -> None:
    split = Split({"a": 1, "b": None, "c": None}, "c")
    assert split.choose(Random(1), ("b", "c")) == "c"
    assert split.choose(Random(1), ("b",)) == "b"
    assert split.choose(Random(1), ()) is None


@given(weights, st.one_of(st.none(), st.sampled_from("abcdef")), st.integers())
def test_a_choice_is_always_a_version_and_never_one_without_a_share(
    found: dict[str, float | None], default: str | None, seed: int
) -> None:
    default = default if default in found else None
    version = Split(found, default).choose(Random(seed))
    assert version in found
    if any(found.values()):
        assert found[version]


@given(weights, st.sets(st.sampled_from("abcdef")), st.integers())
def test_a_choice_among_allowed_versions_is_one_of_them(
    found: dict[str, float | None], some: set[str], seed: int
) -> None:
    allowed = tuple(sorted(some & set(found)))
    version = Split(found, None).choose(Random(seed), allowed)
    assert version in allowed if allowed else version is None
