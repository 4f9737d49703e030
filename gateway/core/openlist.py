"""Which endpoints of a pool are open: what must be known before one is picked."""

from collections.abc import Callable, Collection, Sequence
from math import inf
from typing import Final

from gateway.core.ejection import Ejected, Ejector
from gateway.core.endpoint import Endpoint, Health
from gateway.core.standing import Stand

FIRST_SHARE: Final = 0.1  # of the others' load, which an endpoint that comes up may have at first

_LEFT_OUT: Final = (Stand.OUT, Stand.TRYING, Stand.SHUNNED)  # the first to be left out first


class OpenList:
    """The endpoints that may take new work, cached until something that decides it changes.

    Those that are UP; if none is, those still CHECKING (a gateway that has just started serves before it has probed);
    else none. Of these, not those that traffic says to leave out (`standing.py`), but never more than a share of them:
    the others are asked in their turn, whatever they hold. An endpoint that asked to be left alone is, while there are
    others. With an `ejector`, few are left: then all but those draining are asked (panic).
    """

    __slots__ = (
        "_changes", "_checking", "_due", "_ejector", "_endpoints", "_fine", "_is_plain", "_on_eject", "_ramping",
        "_seen", "_spared", "_turn", "_up",
    )  # fmt: skip

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        ejector: Ejector | None = None,
        on_eject: Callable[[Ejected], None] | None = None,
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._changes = endpoints[0].row.changes if endpoints else (0,)
        self._ejector = ejector
        self._on_eject = on_eject
        self._seen: int | None = None
        self._due = inf  # when it must be read anew though nothing was written
        self._up: tuple[Endpoint, ...] = ()
        self._checking: tuple[Endpoint, ...] = ()
        self._is_plain = True  # none of the following
        self._fine: tuple[Endpoint, ...] = ()  # of those in _up that are not spared
        self._spared: tuple[Endpoint, ...] = ()  # too many would be out without them
        self._ramping: frozenset[Endpoint] = frozenset()  # in their slow start
        self._turn = 0.0

    def candidates(self, tried: Collection[Endpoint] = (), now: float = 0.0) -> Sequence[Endpoint]:
        """In the pool's order, without `tried`. The same tuple, by identity, until something changes."""
        changes = self._changes
        if not changes or changes[0] != self._seen or now >= self._due:
            self._read(now)
        if not self._is_plain:
            return self._offered(tried, now)
        if not tried:
            return self._up or self._checking
        up = tuple([e for e in self._up if e not in tried])
        return up or tuple([e for e in self._checking if e not in tried])

    @property
    def reopens(self) -> float:
        """When an endpoint that traffic left out may be asked again; inf: it is not for that that none is open."""
        return min([e.standing.out_until for e in self._endpoints if e.standing.state is Stand.OUT], default=inf)

    def _read(self, now: float) -> None:
        # The count before the cells: a change that falls in between is seen by the next reading.
        self._seen = self._changes[0] if self._changes else None
        up, checking = [], []
        for endpoint in self._endpoints:
            health = endpoint.health
            if health is Health.UP:
                up.append(endpoint)
            elif health is Health.CHECKING:
                checking.append(endpoint)
            if health is not Health.UP and health is not Health.DRAINING and endpoint.work.prefixes is not None:
                endpoint.work.prefixes.forget(endpoint)  # it may have restarted
        if self._ejector is not None:
            self._review(self._ejector, now)
            if up:
                up = self._admit(up, self._ejector, now)
            else:
                checking = self._admit(checking, self._ejector, now)
        # An equal tuple keeps its identity: policies cache by it, and most changes concern other pools.
        self._up = self._up if self._up == tuple(up) else tuple(up)
        self._checking = self._checking if self._checking == tuple(checking) else tuple(checking)

    def _review(self, ejector: Ejector, now: float) -> None:
        if now >= ejector.due:
            for ejected in ejector.review(now):
                if self._on_eject is not None:
                    self._on_eject(ejected)

    def _admit(self, endpoints: list[Endpoint], ejector: Ejector, now: float) -> list[Endpoint]:
        """Those whom traffic lets be asked."""
        rules = ejector.rules
        kinds: dict[Stand, list[Endpoint]] = {}
        due, cut = ejector.due, set()
        for endpoint in endpoints:
            standing = endpoint.standing
            state = standing.read(now)
            due = min(due, standing.due)
            standing.is_spared = False
            if state is Stand.OUT and endpoint.work.prefixes is not None:
                endpoint.work.prefixes.forget(endpoint)
            if standing.is_out and standing.is_cut and state in (Stand.OUT, Stand.TRYING):
                cut.add(endpoint)
            elif standing.is_out or (rules.is_shy and not rules.is_keyed):
                kinds.setdefault(state, []).append(endpoint)
        left_out = [endpoint for kind in _LEFT_OUT for endpoint in sorted(kinds.get(kind, ()), key=_badness)]
        most = int(rules.share * len(endpoints))
        spared = set(left_out[most:])
        for endpoint in spared:
            endpoint.standing.is_spared = endpoint.standing.is_marked = True
        out = cut.union(left_out[:most])
        admitted = [endpoint for endpoint in endpoints if endpoint not in out]
        if 0 < len(admitted) < rules.panic * len(self._endpoints):
            admitted = [e for e in self._endpoints if e.health is not Health.DRAINING and e not in cut]
        idle = [endpoint for endpoint in admitted if endpoint.standing.busy_until <= now]
        admitted = idle or admitted
        self._sort(admitted, spared, ejector, now)
        self._due = min([due, *(starts_until(e, rules.slow_start) for e in self._ramping)])
        return admitted

    def _sort(self, admitted: list[Endpoint], spared: set[Endpoint], ejector: Ejector, now: float) -> None:
        rules = ejector.rules
        self._spared = tuple([e for e in admitted if e in spared and not rules.is_keyed])
        self._fine = tuple([e for e in admitted if e not in spared]) if self._spared else ()
        self._ramping = frozenset(() if rules.is_keyed else _later(admitted, rules.slow_start, now))
        self._is_plain = not (self._spared and self._fine) and not self._ramping

    def _offered(self, tried: Collection[Endpoint], now: float) -> Sequence[Endpoint]:
        """What this one request may choose from."""
        offered: Sequence[Endpoint] = self._up or self._checking
        if self._spared and self._fine:
            # As many requests as by turns, or one that fails fast would draw them all.
            self._turn += len(self._spared) / len(offered)
            is_theirs = self._turn >= 1.0
            self._turn -= is_theirs
            offered = self._spared if is_theirs else self._fine
        if tried:
            left = [e for e in offered if e not in tried]
            offered = left or [e for e in self._up or self._checking if e not in tried]
        return self._gated(offered, now) if self._ramping else offered

    def _gated(self, offered: Sequence[Endpoint], now: float) -> Sequence[Endpoint]:
        """Without those in their slow start that have their share of the others' load already: of those who have been
        here for longest, who may be in theirs too, when all of a pool has just begun."""
        assert self._ejector is not None
        length = self._ejector.rules.slow_start
        steady = [endpoint for endpoint in offered if endpoint not in self._ramping]
        if not steady:
            return offered
        pending = weight = furthest = 0.0
        for e in steady:  # not `sum`, which begins at a whole number: compiled, that was what it had to end at
            pending += e.pending
            weight += e.weight
            furthest = max(furthest, ramp(e, length, now))
        usual = pending / weight / furthest
        full = {e for e in self._ramping if e.pending >= 1 and e.pending >= ramp(e, length, now) * usual * e.weight}
        return tuple([e for e in offered if e not in full]) if full else offered

    def __repr__(self) -> str:
        return f"<OpenList {len(self._up)} up, {len(self._checking)} checking of {len(self._endpoints)}>"


def _badness(endpoint: Endpoint) -> tuple[float, float]:
    standing = endpoint.standing
    return -standing.out_until, -standing.worst


def _later(admitted: Sequence[Endpoint], length: float, now: float) -> tuple[Endpoint, ...]:
    """Those in their slow start that began it after others: who came up within a tenth of it began together."""
    first = min([started(endpoint) for endpoint in admitted], default=0.0)
    return tuple([e for e in admitted if starts_until(e, length) > now and started(e) > first + FIRST_SHARE * length])


def started(endpoint: Endpoint) -> float:
    """When it came up, or came back."""
    since = endpoint.row.since
    return max(endpoint.standing.ramp_at, since[endpoint.slot] if since else 0.0)


def starts_until(endpoint: Endpoint, length: float) -> float:
    began = started(endpoint)
    return began + length if began else 0.0


def ramp(endpoint: Endpoint, length: float, now: float) -> float:
    """The share of a full load that an endpoint may have: from FIRST_SHARE to 1, in a line, over `length` seconds."""
    if length <= 0.0:
        return 1.0
    return min(FIRST_SHARE + (1.0 - FIRST_SHARE) * max(now - started(endpoint), 0.0) / length, 1.0)
