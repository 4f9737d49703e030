"""The table of health: every row of it, and the laws that it must add up to."""

from random import Random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.core.endpoint import Health
from gateway.core.health import QUICK, TRANSITIONS, Need, Vitals, drain, is_in_doubt, judge, pause, undrain

RISE, FALL = 3, 4
COUNTS = {Need.ONE: 1, Need.RISE: RISE, Need.FALL: FALL}

# What the table must say, in words: state, check, how many in a row -> state.
EXPECTED = {
    (Health.CHECKING, True, 1): Health.UP,
    (Health.CHECKING, False, FALL - 1): Health.CHECKING,
    (Health.CHECKING, False, FALL): Health.DOWN,
    (Health.UP, True, 1): Health.UP,
    (Health.UP, True, 99): Health.UP,
    (Health.UP, False, FALL - 1): Health.UP,
    (Health.UP, False, FALL): Health.DOWN,
    (Health.DOWN, False, 1): Health.DOWN,
    (Health.DOWN, False, 99): Health.DOWN,
    (Health.DOWN, True, 1): Health.PROBATION,
    (Health.DOWN, True, RISE - 1): Health.PROBATION,
    (Health.DOWN, True, RISE): Health.UP,
    (Health.PROBATION, True, RISE): Health.UP,
    (Health.PROBATION, False, 1): Health.DOWN,
    (Health.DRAINING, True, 99): Health.DRAINING,
    (Health.DRAINING, False, 99): Health.DRAINING,
}


@pytest.mark.parametrize(("case", "expected"), EXPECTED.items(), ids=str)
def test_checks_in_a_row_lead_where_they_should(case: tuple[Health, bool, int], expected: Health) -> None:
    state, is_good, checks = case
    vitals = Vitals(state)
    for _ in range(checks):
        vitals = judge(vitals, is_good, RISE, FALL)
    assert vitals.health is expected


def test_the_table_answers_every_check_in_every_state() -> None:
    assert set(TRANSITIONS) == {(state, is_good) for state in Health for is_good in (True, False)}


@pytest.mark.parametrize(("state", "is_good"), TRANSITIONS, ids=str)
def test_a_state_changes_at_the_count_of_its_row_and_not_one_check_before(state: Health, is_good: bool) -> None:
    rows = TRANSITIONS[state, is_good]
    sign = 1 if is_good else -1
    for streak in range(8):
        after = judge(Vitals(state, sign * streak), is_good, RISE, FALL)
        met = [health for need, health in rows if streak + 1 >= COUNTS[need]]
        assert after == Vitals(met[0] if met else state, sign * (streak + 1))


@pytest.mark.parametrize("state", Health)
def test_a_check_of_the_other_kind_begins_a_new_row(state: Health) -> None:
    assert judge(Vitals(state, -7), True, RISE, FALL).streak == 1
    assert judge(Vitals(state, 7), False, RISE, FALL).streak == -1


def test_rise_1_brings_a_down_endpoint_up_with_one_check() -> None:
    assert judge(Vitals(Health.DOWN, -9), True, 1, 3).health is Health.UP


def test_an_endpoint_starts_checking() -> None:
    assert Vitals() == Vitals(Health.CHECKING, 0)


class Laws(RuleBasedStateMachine):
    """Any history of checks, draining and undraining."""

    @initialize(rise=st.integers(1, 4), fall=st.integers(1, 4))
    def begin(self, rise: int, fall: int) -> None:
        self.rise, self.fall = rise, fall
        self.vitals = self.before = Vitals()
        self.history: list[bool] = []  # since the last drain or undrain

    @rule(is_good=st.booleans())
    def check(self, is_good: bool) -> None:
        self.before = self.vitals
        self.history.append(is_good)
        self.vitals = judge(self.vitals, is_good, self.rise, self.fall)

    @rule(is_on=st.booleans())
    def switch_draining(self, is_on: bool) -> None:
        self.vitals = self.before = drain() if is_on else undrain()
        self.history = []

    @invariant()
    def down_takes_fall_bad_checks_in_a_row_or_one_on_probation(self) -> None:
        if self.vitals.health is Health.DOWN and self.before.health is not Health.DOWN:
            assert self.history[-1] is False
            assert self.before.health is Health.PROBATION or self.history[-self.fall :] == [False] * self.fall

    @invariant()
    def fall_bad_checks_in_a_row_end_every_hope(self) -> None:
        if self.vitals.health is not Health.DRAINING and self.history[-self.fall :] == [False] * self.fall:
            assert self.vitals.health is Health.DOWN

    @invariant()
    def back_up_takes_rise_good_checks_in_a_row(self) -> None:
        if self.vitals.health is Health.UP and self.before.health in (Health.DOWN, Health.PROBATION):
            assert self.history[-self.rise :] == [True] * self.rise

    @invariant()
    def a_good_check_never_makes_it_worse_nor_a_bad_one_better(self) -> None:
        hope = (Health.DOWN, Health.PROBATION, Health.CHECKING, Health.UP)
        if self.history and self.vitals.health is not Health.DRAINING:
            change = hope.index(self.vitals.health) - hope.index(self.before.health)
            assert change >= 0 if self.history[-1] else change <= 0

    @invariant()
    def probation_means_the_last_check_was_good(self) -> None:
        if self.vitals.health is Health.PROBATION:
            assert 0 < self.vitals.streak < self.rise

    @invariant()
    def draining_lasts_until_it_is_undone(self) -> None:
        assert (self.vitals.health is Health.DRAINING) == (self.before.health is Health.DRAINING)


TestLaws = Laws.TestCase


# --- pace -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vitals", "expected"),
    [
        (Vitals(Health.CHECKING), True),
        (Vitals(Health.CHECKING, -2), True),
        (Vitals(Health.UP, 5), False),
        (Vitals(Health.UP, -1), True),
        (Vitals(Health.PROBATION, 1), True),
        (Vitals(Health.DOWN, -3), False),
        (Vitals(Health.DRAINING), False),
    ],
)
def test_there_is_doubt_where_the_next_check_may_decide(vitals: Vitals, expected: bool) -> None:
    assert is_in_doubt(vitals) is expected


@pytest.mark.parametrize(
    ("vitals", "interval", "middle"),
    [
        (Vitals(Health.UP, 3), 5.0, 5.0),
        (Vitals(Health.CHECKING), 5.0, 1.0),
        (Vitals(Health.UP, -1), 0.3, QUICK),
        (Vitals(Health.UP, -1), 0.05, 0.05),  # in doubt never slower than otherwise
    ],
)
def test_checks_come_a_tenth_early_or_late_and_quickly_in_doubt(vitals: Vitals, interval: float, middle: float) -> None:
    dice = Random(1)
    pauses = [pause(vitals, interval, dice) for _ in range(300)]
    assert min(pauses) == pytest.approx(middle * 0.9, rel=0.01)
    assert max(pauses) == pytest.approx(middle * 1.1, rel=0.01)
