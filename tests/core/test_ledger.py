"""What workers tell each other of prompts: in order, around the end of the ring, and never half of it."""

from gateway.core.endpoint import Endpoint, Health, Row
from gateway.core.ledger import RING, Ledger
from gateway.core.prefixes import Prefixes, prefixes_of


class Worker:
    """Its own endpoints, at the slots that they have in every worker."""

    def __init__(self, number: int, rings: list[memoryview]) -> None:
        row = Row([Health.UP] * 2, [0, 0])
        self.endpoints = [Endpoint(f"http://10.0.0.{slot}", slot, row) for slot in range(2)]
        self.prefixes: Prefixes = prefixes_of(self.endpoints)
        others = [ring for index, ring in enumerate(rings) if index != number]
        self.ledger = Ledger(rings[number], others, dict(enumerate(self.endpoints)).get)

    def counts(self, chain: list[int]) -> list[int]:
        self.ledger.listen()
        return [self.prefixes.count(endpoint, chain) for endpoint in self.endpoints]


def workers(count: int = 2) -> list[Worker]:
    rings = [memoryview(bytearray(8 * (1 + RING))).cast("q") for _ in range(count)]
    return [Worker(number, rings) for number in range(count)]


def chain(seed: int, size: int) -> list[int]:
    return [hash((seed, index, "x")) for index in range(size)]


def test_what_one_worker_sends_where_the_others_know() -> None:
    first, second, third = workers(3)
    first.ledger.tell(1, chain(1, 5))
    second.ledger.tell(0, chain(2, 3))
    assert third.counts(chain(1, 5)) == [0, 5]
    assert third.counts(chain(2, 3)) == [3, 0]
    assert second.counts(chain(1, 5)) == [0, 5]
    assert first.counts(chain(1, 5)) == [0, 0]  # what it sent itself it knows without being told


def test_records_go_around_the_end_of_the_ring() -> None:
    first, second = workers()
    for seed in range(200):
        first.ledger.tell(seed % 2, chain(seed, 1000))
        assert second.counts(chain(seed, 1000))[seed % 2] == 1000


def test_who_reads_too_late_misses_some_and_understands_what_follows() -> None:
    first, second = workers()
    for seed in range(50):
        first.ledger.tell(0, chain(seed, 1000))
    assert second.counts(chain(49, 1000)) == [0, 0]
    first.ledger.tell(0, chain(77, 10))
    assert second.counts(chain(77, 10)) == [10, 0]


def test_a_prompt_that_is_too_long_is_told_of_as_far_as_it_goes() -> None:
    first, second = workers()
    first.ledger.tell(0, chain(1, RING))
    assert second.counts(chain(1, RING))[0] == RING // 8 - 1


def test_slots_that_a_worker_does_not_know_are_passed_over() -> None:
    first, second = workers()
    first.ledger.tell(9, chain(1, 5))
    first.ledger.tell(0, chain(2, 5))
    assert second.counts(chain(1, 5)) == [0, 0]
    assert second.counts(chain(2, 5)) == [5, 0]


def test_a_new_worker_begins_with_what_is_told_from_now_on() -> None:
    rings = [memoryview(bytearray(8 * (1 + RING))).cast("q") for _ in range(2)]
    first = Worker(0, rings)
    first.ledger.tell(0, chain(1, 5))
    late = Worker(1, rings)
    assert late.counts(chain(1, 5)) == [0, 0]
    first.ledger.tell(0, chain(2, 5))
    assert late.counts(chain(2, 5)) == [5, 0]
