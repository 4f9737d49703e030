"""The simulated engine: its arithmetic by hand, and what it gives back."""

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random

import pytest

from tests.sim.engine import CHUNK, H100, Engine, Job, Profile


class Clock:
    """Runs one engine; jobs come at their times."""

    def __init__(self, profile: Profile = H100, block: int = 64) -> None:
        self.heap: list[tuple[float, int, Callable[..., None], object]] = []
        self.count = 0
        self.engine = Engine(profile, block, self.after)

    def after(self, time: float, call: Callable[..., None], argument: object) -> None:
        self.count += 1
        heappush(self.heap, (time, self.count, call, argument))

    def come(self, at: float, job: Job, seen: dict[Job, list[float]]) -> None:
        seen[job] = []
        job.on_first = seen[job].append
        job.on_end = seen[job].append
        self.after(at, lambda now, job: self.engine.add(job, now), job)

    def run(self) -> None:
        while self.heap:
            now, _, call, argument = heappop(self.heap)
            call(now, argument)


def test_one_sequence_takes_what_the_formula_says() -> None:
    clock, seen = Clock(), {}
    job = Job(CHUNK + 100, 3, [])
    clock.come(1.0, job, seen)
    clock.run()
    fixed, prefill, decode, context, _ = H100
    first = 1.0 + 2 * fixed + (CHUNK + 100) * prefill + CHUNK * context  # the second chunk reads the first
    rest = 2 * (fixed + decode) + context * (2 * (CHUNK + 101) + 1)
    assert seen[job] == [pytest.approx(first), pytest.approx(first + rest)]


def test_a_kept_prefix_is_not_prefilled_again() -> None:
    clock, seen = Clock(), {}
    blocks = list(range(100))
    one, two = Job(6400, 2, blocks), Job(6500, 2, blocks)
    clock.come(0.0, one, seen)
    clock.come(5.0, two, seen)
    clock.run()
    assert seen[two][0] - 5.0 == pytest.approx(H100.fixed + 100 * H100.prefill + 6400 * H100.context)


def test_who_comes_during_a_leap_waits_for_one_step_at_most() -> None:
    clock, seen = Clock(), {}
    long, late = Job(100, 1000, []), Job(100, 1, [])
    clock.come(0.0, long, seen)
    clock.come(3.0, late, seen)
    clock.run()
    step = H100.fixed + H100.decode + 1100 * H100.context
    assert seen[late][0] - 3.0 <= 2 * step + 100 * H100.prefill


def test_a_leap_ends_when_its_steps_would_one_by_one() -> None:
    """Interruptions cut leaps into pieces, but change no end by more than their own prefills take."""
    alone, cut = Clock(), Clock()
    ends = []
    for clock, others in ((alone, 0), (cut, 50)):
        seen: dict[Job, list[float]] = {}
        job = Job(100, 500, [])
        clock.come(0.0, job, seen)
        for number in range(others):
            clock.come(0.1 + number * 0.05, Job(1, 1, []), seen)
        clock.run()
        ends.append(seen[job][1])
    assert ends[1] - ends[0] == pytest.approx(50 * H100.prefill, rel=0.1)


def test_under_pressure_everybody_ends_and_all_memory_comes_back() -> None:
    dice = Random(3)
    clock, seen = Clock(H100._replace(kv=20_000)), {}
    for number in range(300):
        shared = [dice.randrange(5) * 1000 + part for part in range(dice.randrange(40))]
        clock.come(number * 0.02, Job(len(shared) * 64 + dice.randrange(1, 3000), dice.randrange(1, 400), shared), seen)
    clock.run()
    engine = clock.engine
    assert all(len(moments) == 2 for moments in seen.values())
    assert engine.preempted > 0
    assert (engine.usage, engine.pins, engine.decoding, engine.prefilling) == (0.0, {}, [], [])
    assert engine._context == 0
    assert len(engine.kept) * 64 <= 20_000
