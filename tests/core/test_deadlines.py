from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.deadlines import NEVER, Deadlines


@dataclass(eq=False)
class Thing:
    deadline: float
    called: list[float] = field(default_factory=list)
    again: float | None = None
    ends: Deadlines | None = None

    def on_deadline(self, now: float) -> None:
        self.called.append(now)
        if self.again is not None:
            self.deadline = self.again
        if self.ends is not None:
            self.ends.watched.discard(self)


def watching(*things: Thing) -> Deadlines:
    deadlines = Deadlines()
    deadlines.watched.update(things)
    return deadlines


def test_what_is_overdue_is_told_once() -> None:
    late, due, early, never = Thing(1.0), Thing(2.0), Thing(2.1), Thing(NEVER)
    deadlines = watching(late, due, early, never)
    assert deadlines.sweep(2.0) == 2
    assert [thing.called for thing in (late, due, early, never)] == [[2.0], [2.0], [], []]
    assert deadlines.sweep(2.0) == 0
    assert late.deadline == NEVER


def test_a_deadline_that_is_set_anew_while_it_is_told_holds() -> None:
    thing = Thing(1.0, again=3.0)
    deadlines = watching(thing)
    deadlines.sweep(1.0)
    assert deadlines.sweep(2.0) == 0
    assert deadlines.sweep(3.0) == 1


def test_what_leaves_while_it_is_told_is_forgotten() -> None:
    deadlines = Deadlines()
    things = [Thing(1.0, ends=deadlines) for _ in range(3)]
    deadlines.watched.update(things)
    assert deadlines.sweep(1.0) == 3
    assert not deadlines.watched


@given(st.lists(st.floats(0, 100)), st.floats(0, 100))
def test_a_sweep_tells_exactly_what_is_overdue(times: list[float], now: float) -> None:
    things = [Thing(at) for at in times]
    watching(*things).sweep(now)
    assert [bool(thing.called) for thing in things] == [at <= now for at in times]
