"""Standing: what real traffic says of an endpoint, over all workers of this machine.

A worker writes what it saw into its own words of the zone and reads the others'; nobody decides for anybody else, so
nothing here needs the controller. The moments in it are of the machine's monotonic clock, the same in every process.
What changes who may be picked is announced by `ring`; everything else costs a success two additions and one store.

    FINE -> SHUNNED    its last answer was a failure: passed over while its error cost is above SHUN
    FINE -> OUT        ejected: failures in a row, or an outlier (`ejection.py`); its breaker is open
    OUT, SHUNNED -> UNPROVEN -> TRYING    half-open: the time is over, one request is let through
    TRYING -> FINE or OUT                 as that one ends; from OUT by a slow start
"""

from collections.abc import Callable, MutableSequence, Sequence
from enum import IntEnum
from math import ceil, exp, inf, log
from typing import Final, NamedTuple, Protocol

TAU: Final = 10.0  # seconds in which an error's cost falls to 1/e
LEAST_COST, MOST_COST = 1.0, 60.0  # seconds: of the first failure, doubled by each further one
SHUN: Final = 0.05  # seconds: below this cost an endpoint is worth a try; 30 s after one failure, 37 s after two
PATIENCE: Final = 60.0  # seconds until a trial that nobody ended does not count any more (its worker died)
POLL: Final = 1.0  # seconds until a success that another worker had is noticed
BUSY_MOST: Final = 60.0  # seconds: an endpoint that asks to be left alone for longer is asked again all the same

# Words of an endpoint in a worker's row of the zone; doubles, which hold whole numbers up to 2^53.
OWNER, MARK, GOOD, BAD, RUN, GONE, SEEN, COST, COST_AT = range(9)
OUT_AT, OUT_UNTIL, OUT_TIMES, IS_CUT, BACK_AT, TRIAL_AT, BUSY_UNTIL, OUTS = range(9, 17)
WORDS: Final = 17


class Stand(IntEnum):
    FINE = 0
    UNPROVEN = 1  # one request may try
    SHUNNED = 2
    TRYING = 3  # it does
    OUT = 4


class Cells(NamedTuple):
    """The words of the zone that `Standing` reads and writes: WORDS for each slot."""

    own: MutableSequence[float]  # written by this worker alone
    others: Sequence[Sequence[float]] = ()
    ring: Callable[[], None] | None = None  # have every worker look again who may be picked


class Standing:
    """One endpoint's, as one worker knows it: its own record to the moment, the others' as `read` last found them."""

    __slots__ = (
        "_at", "_good_cell", "_own", "_ring", "_rows", "bad", "busy_until", "cost", "cost_at", "due", "good",
        "is_cut", "is_marked", "is_out", "is_spared", "is_trying", "out_at", "out_times", "out_until", "owner",
        "ramp_at", "run", "state", "worst",
    )  # fmt: skip

    def __init__(self, owner: int, slot: int = 0, cells: Cells | None = None) -> None:
        """`owner`: a number for the endpoint's identity, as another may have had the slot before."""
        cells = cells or Cells([0.0] * WORDS * (slot + 1))
        self.owner = float(owner)
        self._at = slot * WORDS
        self._good_cell = self._at + GOOD
        self._own = own = cells.own
        self._rows = (own, *cells.others)
        self._ring = cells.ring
        if own[self._at + OWNER] != self.owner:
            for word in range(WORDS):
                own[self._at + word] = 0.0
            own[self._at + OWNER] = self.owner
        self.good = int(own[self._good_cell])  # a worker that was started anew goes on where the one before it ended
        self.bad = int(own[self._at + BAD])
        self.run = int(own[self._at + RUN])  # failures since the last success, in this worker
        self.cost = own[self._at + COST]
        self.cost_at = own[self._at + COST_AT]
        self.is_marked = self.run > 0  # a success means more than one more
        self.is_trying = False  # in this worker
        self.is_spared = False  # too many are out: this one is asked all the same
        # As last read, over all workers:
        self.state = Stand.FINE
        self.due = inf  # when that may change by itself
        self.worst = 0.0  # error cost
        self.out_at = self.out_until = self.out_times = 0.0
        self.is_out = False  # out, or on trial to come back
        self.is_cut = False  # because the whole pool is
        self.ramp_at = 0.0  # when it came back
        self.busy_until = 0.0

    # --- what happened ---

    def succeed(self, now: float) -> None:
        """An exchange ended well."""
        self.good += 1
        self._own[self._good_cell] = self.good
        if self.is_marked:
            self._redeem(now)

    def fail(self, now: float, *, is_gone: bool = False) -> int:
        """An exchange failed; -> how many in a row, over all workers. `is_gone`: nothing there answered for itself."""
        at = self._at
        self._set(MARK, self.owner)
        if self.is_trying:
            self._end_trial()
        good = self._total(GOOD)
        if self._own[at + SEEN] != good:  # somebody had a success since this worker's last failure
            self.run = 0
            self._own[at + GONE] = 0.0
        self.run += 1
        self.bad += 1
        self._set(SEEN, good)
        self._set(RUN, self.run)
        self._set(BAD, self.bad)
        if is_gone:
            self._set(GONE, self._own[at + GONE] + 1.0)
        total = self.in_a_row(RUN, good)
        self._spend(max(2.0 * self.aged_cost(now), min(2.0 ** min(total - 1, 6), MOST_COST)), now)
        self.is_marked = True
        if self.state in (Stand.FINE, Stand.UNPROVEN):
            self._announce()
        return total

    def in_a_row(self, word: int = RUN, good: float | None = None) -> int:
        """Failures since the last success of any worker; of GONE: those where nothing answered."""
        at, good = self._at, self._total(GOOD) if good is None else good
        found = [row[at + word] for row in self._rows if row[at + SEEN] == good and row[at + MARK] == self.owner]
        return int(sum(found))

    def busy(self, seconds: float, now: float) -> None:
        """It asked to be left alone for so long; that is no failure."""
        self._set(BUSY_UNTIL, now + min(seconds, BUSY_MOST))
        self._end_trial()
        self._announce()

    def eject(self, now: float, seconds: float, longest: float, *, is_cut: bool = False) -> float:
        """Leave it out: `seconds` the first time, twice that the second time in a row, up to `longest`; -> how long.
        For every `seconds` that it was back, one time is forgiven."""
        self.read(now)
        forgiven = (now - self.ramp_at) // seconds if self.ramp_at > self.out_at else 0.0
        times = max(self.out_times - forgiven, 0.0) + 1.0
        length = min(seconds * times, longest)
        for word, value in ((OUT_AT, now), (OUT_UNTIL, now + length), (OUT_TIMES, times), (IS_CUT, float(is_cut))):
            self._set(word, value)
        self._set(OUTS, self._own[self._at + OUTS] + 1.0)
        self._end_trial()
        self._announce()
        return length

    def begin_trial(self, now: float) -> None:
        """It is UNPROVEN, and a request is sent there: no other is until this one has ended."""
        self.is_trying = self.is_marked = True
        self._set(TRIAL_AT, now)
        self._announce()

    def abandon(self) -> None:
        """The trial ended without saying anything."""
        self._end_trial()
        self._announce()

    def restore(self, now: float) -> None:
        """The trial was answered well."""
        self._end_trial()
        if self.is_out:
            self._set(BACK_AT, now)
        self._forget(now)
        self._announce()

    # --- what follows from it ---

    def read(self, now: float) -> Stand:
        """Look at every worker's words."""
        at, owner = self._at, self.owner
        trial_at = back_at = 0.0
        self.out_at = self.out_until = self.out_times = self.busy_until = 0.0
        self.worst, self.is_cut = self.aged_cost(now), False
        good = -1.0
        for row in self._rows:
            if row[at + MARK] != owner:
                continue
            if row[at + OUT_AT] > self.out_at:
                self.out_at, self.out_until, self.out_times = row[at + OUT_AT], row[at + OUT_UNTIL], row[at + OUT_TIMES]
                self.is_cut = row[at + IS_CUT] != 0.0
            back_at = max(back_at, row[at + BACK_AT])
            trial_at = max(trial_at, row[at + TRIAL_AT])
            self.busy_until = max(self.busy_until, row[at + BUSY_UNTIL])
            if row[at + COST] > SHUN and row is not self._own:
                good = self._total(GOOD) if good < 0.0 else good
                if row[at + SEEN] == good:  # nobody has had a success since
                    self.worst = max(self.worst, _aged(row[at + COST], row[at + COST_AT], now))
        self.ramp_at = back_at
        if back_at > self.cost_at and self.run:
            self._forget(now)
        elif self.run and self._own[at + SEEN] != self._total(GOOD):  # another worker had a success
            self.run = 0
            self._set(RUN, 0.0)
        is_out = self.is_out = self.out_at > back_at
        is_tried = trial_at > 0.0 and trial_at >= max(self.out_until if is_out else 0.0, now - PATIENCE)
        if is_out and now < self.out_until:
            self.state, self.due = Stand.OUT, self.out_until
        elif is_tried and (is_out or self.run):
            self.state, self.due = Stand.TRYING, trial_at + PATIENCE
        elif self.worst > SHUN and not is_out:
            self.state, self.due = Stand.SHUNNED, now + min(TAU * log(self.worst / SHUN), POLL)
        else:
            self.state, self.due = Stand.UNPROVEN if is_out or self.run else Stand.FINE, inf
        if now < self.busy_until:
            self.due = min(self.due, self.busy_until)
        return self.state

    def aged_cost(self, now: float) -> float:
        return _aged(self.cost, self.cost_at, now) if self.cost else 0.0

    @property
    def is_unproven(self) -> bool:
        return self.state is Stand.UNPROVEN

    def counts(self) -> tuple[int, int]:
        """Successes and failures over all workers."""
        return int(self._total(GOOD)), int(self._total(BAD))

    @property
    def times_out(self) -> int:
        """How often it was left out, over all workers, since the gateway started."""
        return int(self._total(OUTS))

    # --- inside ---

    def _redeem(self, now: float) -> None:
        if self.is_trying or (self.is_spared and self.state is Stand.OUT):
            self.restore(now)
            return
        self.run = 0
        self._set(RUN, 0.0)
        self._set(GONE, 0.0)
        self._spend(0.25 * self.aged_cost(now), now)
        if self.cost <= SHUN:
            self._forget(now)
            self._announce()

    def _forget(self, now: float) -> None:
        self.run = 0
        self._set(RUN, 0.0)
        self._set(GONE, 0.0)
        self._spend(0.0, now)
        self.is_marked = False

    def _spend(self, cost: float, now: float) -> None:
        self.cost = min(cost, MOST_COST)
        self.cost_at = max(now, self.cost_at)
        self._set(COST, self.cost)
        self._set(COST_AT, self.cost_at)

    def _end_trial(self) -> None:
        self.is_trying = False
        self._set(TRIAL_AT, 0.0)

    def _set(self, word: int, value: float) -> None:
        self._own[self._at + word] = value

    def _total(self, word: int) -> float:
        """Over all workers, as far as they speak of this endpoint."""
        at = self._at
        total = 0.0
        for row in self._rows:
            if row[at + OWNER] == self.owner:
                total += row[at + word]
        return total

    def _announce(self) -> None:
        self._set(MARK, self.owner)
        if self._ring is not None:
            self._ring()

    def __repr__(self) -> str:
        return f"<Standing {self.state.name.lower()} good={self.good} bad={self.bad} run={self.run}>"


def look(owner: int, slot: int, rows: Sequence[Sequence[float]], now: float) -> Standing:
    """What all `rows` say of an endpoint, for one who writes nothing."""
    at = slot * WORDS
    standing = Standing(owner, 0, Cells([0.0] * WORDS, [row[at : at + WORDS] for row in rows]))
    standing.read(now)
    return standing


def say(standing: Standing, now: float) -> str:
    """In words what keeps work away from it; "" if nothing does."""
    if now < standing.busy_until:
        return f"busy {ceil(standing.busy_until - now)} s"
    if standing.state is Stand.OUT:
        return f"out {ceil(standing.out_until - now)} s"
    return _SAID[standing.state]


_SAID: Final = {
    Stand.FINE: "",
    Stand.UNPROVEN: "to be tried",
    Stand.TRYING: "on trial",
    Stand.SHUNNED: "after an error",
    Stand.OUT: "out",
}


class Known(Protocol):
    """What traffic has to say something of."""

    @property
    def standing(self) -> Standing: ...


def error_cost(endpoint: Known, now: float) -> float:
    """Seconds that this worker takes an endpoint's failures to cost whoever is sent there: LEAST_COST for the first,
    doubled by each further one in a row, quartered by a success, and fading with TAU."""
    return endpoint.standing.aged_cost(now)


def _aged(cost: float, since: float, now: float) -> float:
    return cost * exp(min(since - now, 0.0) / TAU)
