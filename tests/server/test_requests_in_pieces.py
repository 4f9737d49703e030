"""Bytes that a network may cut anywhere, and that an attacker may have made: the same outcome for every cut, and
nothing but clean requests that the client meant, whatever it sent."""

import random

import pytest

from tests.e2e.harness_strict import parse, smuggled
from tests.fuzz import mutations
from tests.server.client_side import Outcome, outcomes

PUBLIC = mutations.public()


def in_bytes(raw: bytes) -> list[bytes]:
    return [raw[at : at + 1] for at in range(len(raw))]


def seen(outcome: Outcome) -> tuple[object, ...]:
    return outcome.forwarded, outcome.statuses, outcome.is_closed, outcome.is_aborted


def check_clean(raw: bytes, outcome: Outcome) -> None:
    requests = [request for one in outcome.forwarded for request in parse(one)]
    assert len(requests) == len(outcome.forwarded), raw
    assert smuggled(raw, requests) == "", raw
    assert not outcome.loop_errors, (raw, outcome.loop_errors)
    assert not outcome.is_aborted, raw


def test_there_is_something_to_look_at() -> None:
    forwarded = sum(bool(outcome.forwarded) for outcome in outcomes([raw] for raw in PUBLIC.values()))
    assert len(PUBLIC) == 247
    assert forwarded > 30


def test_every_public_request_has_the_same_outcome_byte_by_byte() -> None:
    whole = outcomes([raw] for raw in PUBLIC.values())
    dripped = outcomes(in_bytes(raw) for raw in PUBLIC.values())
    for name, raw, one, other in zip(PUBLIC, PUBLIC.values(), whole, dripped, strict=True):
        assert seen(one) == seen(other), name
        check_clean(raw, one)


@pytest.mark.parametrize("part", range(4))
def test_every_public_request_has_the_same_outcome_in_any_two_pieces(part: int) -> None:
    names = sorted(PUBLIC)[part::4]
    cases = [(name, at) for name in names for at in range(1, len(PUBLIC[name]))]
    whole = dict(zip(names, outcomes([PUBLIC[name]] for name in names), strict=True))
    cut = outcomes((PUBLIC[name][:at], PUBLIC[name][at:]) for name, at in cases)
    for (name, at), outcome in zip(cases, cut, strict=True):
        assert seen(outcome) == seen(whole[name]), (name, at)


@pytest.mark.parametrize("seed", range(3))
def test_no_mutation_of_them_is_forwarded_unclean_or_as_another_request(seed: int) -> None:
    dice = random.Random(seed)
    found = mutations.seeds()
    raws = [mutations.mutant(dice, found) for _ in range(1000)]
    for raw, outcome in zip(raws, outcomes([raw] for raw in raws), strict=True):
        check_clean(raw, outcome)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1000, 1020))
def test_no_mutation_of_many_is_forwarded_unclean_or_differs_when_it_drips(seed: int) -> None:
    dice = random.Random(seed)
    found = mutations.seeds()
    raws = [mutations.mutant(dice, found) for _ in range(10_000)]
    whole, dripped = outcomes([raw] for raw in raws), outcomes(in_bytes(raw) for raw in raws)
    for raw, one, other in zip(raws, whole, dripped, strict=True):
        check_clean(raw, one)
        assert seen(one) == seen(other), raw
