"""What a row of the table is, and how one is run."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from bench.audit import wait_ready
from bench.contestants import Contestant, Started, started
from bench.processes import Running, busy_seconds, cpu_seconds, ended, free_ports, tree
from bench.site import Site, start_upstream

Sample = Mapping[str, float]  # by measure


@dataclass(frozen=True)
class Run:
    """One run of one contestant."""

    started: Started
    seconds: float
    ready_after: float  # seconds from its start to its first answer

    def cpu(self) -> float:
        return self.started.running.cpu()


@dataclass(frozen=True, eq=False)
class Row:
    """One comparison. The first measure is the one that bars are about; the gateway is the first contestant."""

    name: str
    title: str
    measures: Sequence[str]
    contestants: Sequence[Contestant]
    run: Callable[[Run], Sample]
    bars: Mapping[str, float] = field(default_factory=dict)  # peer -> highest ratio of the first measure to it
    ceilings: Mapping[str, float] = field(default_factory=dict)  # measure -> the gateway's own highest value
    notes: Sequence[str] = ()  # of a sample that explain it but are no costs
    upstream: Callable[[Site], Running] = start_upstream
    is_fresh: bool = False  # every run has a process of its own
    warm_up: float = 1.0  # seconds


@dataclass(frozen=True)
class Outcome:
    """All samples of a row."""

    row: Row
    samples: Mapping[str, Sequence[Sample]]  # by contestant, one for each round
    others: float  # share of the machine's processors that went to processes which are none of ours

    def of(self, contestant: str, measure: str) -> list[float]:
        return [sample[measure] for sample in self.samples[contestant]]

    @property
    def subject(self) -> str:
        """Whose costs are compared with the peers': the first, a gateway."""
        return next(iter(self.samples))


@dataclass(frozen=True)
class Pace:
    """How long, how often."""

    seconds: float
    repeats: int
    say: Callable[[str], None]


def play(row: Row, contestants: Sequence[Contestant], site: Site, pace: Pace) -> Outcome:
    """All rounds of a row: A B C, A B C, ... Raises Failed."""
    first, second = free_ports(2)
    site = replace(site, upstream_ports=(first, second))
    samples: dict[str, list[Sample]] = {each.name: [] for each in contestants}
    began, busy, own = time.monotonic(), busy_seconds(), _own_seconds()
    with ended(row.upstream(site)):
        rounds = _fresh_rounds if row.is_fresh else _lasting_rounds
        rounds(row, contestants, site, pace, samples)
    capacity = (time.monotonic() - began) * (os.cpu_count() or 1)
    others = (busy_seconds() - busy - (_own_seconds() - own)) / capacity
    return Outcome(row, samples, max(0.0, others))


def _own_seconds() -> float:
    """CPU of this process and all that it started, those that have ended included."""
    return sum(cpu_seconds(pid) for pid in tree(os.getpid()))


def _lasting_rounds(
    row: Row, contestants: Sequence[Contestant], site: Site, pace: Pace, samples: dict[str, list[Sample]]
) -> None:
    with ExitStack() as stack:
        runs = []
        for each in contestants:
            it = stack.enter_context(started(each, site))
            run = Run(it, pace.seconds, wait_ready(it))
            if row.warm_up:
                row.run(replace(run, seconds=row.warm_up))
            runs.append(run)
        for number in range(pace.repeats):
            for run in runs:
                _note(row, run, number, pace, samples)


def _fresh_rounds(
    row: Row, contestants: Sequence[Contestant], site: Site, pace: Pace, samples: dict[str, list[Sample]]
) -> None:
    for number in range(pace.repeats):
        for each in contestants:
            with started(each, site) as it:
                _note(row, Run(it, pace.seconds, wait_ready(it)), number, pace, samples)


def _note(row: Row, run: Run, number: int, pace: Pace, samples: dict[str, list[Sample]]) -> None:
    sample = row.run(run)
    name = run.started.contestant.name
    samples[name].append(sample)
    pace.say(
        f"{row.name} round {number + 1} {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in sample.items())
    )
