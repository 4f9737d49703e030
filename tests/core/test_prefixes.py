"""The index of prefixes, against the simplest thing that could be right; and its bounds."""

from random import Random
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.endpoint import Endpoint, Health, Row
from gateway.core.openlist import OpenList
from gateway.core.prefixes import Prefixes, prefixes_of
from gateway.core.prompt import BLOCK, BLOCK_TOKENS, LONGEST, chain_of, read_prompt
from tests.core.simulated_pool import make_pool

texts = st.lists(st.sampled_from([b"a" * BLOCK, b"b" * BLOCK, b"c" * BLOCK]), max_size=5).map(b"".join)


@given(sent=st.lists(st.tuples(st.integers(0, 3), texts), max_size=20), asked=texts)
def test_the_longest_common_beginning_is_found_for_every_endpoint(sent: list[tuple[int, bytes]], asked: bytes) -> None:
    pool = make_pool(4)
    prefixes = Prefixes()
    for index, text in sent:
        prefixes.add(pool[index], chain_of(text))
    found = prefixes.match(chain_of(asked))
    for index, endpoint in enumerate(pool):
        expected = max((common(text, asked) for at, text in sent if at == index), default=0)
        assert found.get(endpoint, 0) == prefixes.count(endpoint, chain_of(asked)) == expected


def common(one: bytes, other: bytes) -> int:
    """Whole blocks that both begin with."""
    depth = 0
    while one[:BLOCK] == other[:BLOCK] != b"":
        depth, one, other = depth + 1, one[BLOCK:], other[BLOCK:]
    return depth


def test_what_was_sent_longest_ago_is_dropped_first_and_the_ends_of_prompts_before_their_beginnings() -> None:
    (endpoint,) = make_pool(1)
    prefixes = Prefixes(capacity=6 * BLOCK_TOKENS)
    prefixes.add(endpoint, [1, 2, 3])
    prefixes.add(endpoint, [11, 12])
    prefixes.add(endpoint, [1, 2, 3])
    prefixes.add(endpoint, [21, 22])  # seven blocks: one too many
    assert [prefixes.count(endpoint, chain) for chain in ([1, 2, 3], [11, 12], [21, 22])] == [3, 1, 2]


def test_nothing_is_left_of_an_endpoint_that_is_forgotten() -> None:
    pool = make_pool(2)
    prefixes = Prefixes()
    prefixes.add(pool[0], [1, 2])
    prefixes.add(pool[1], [1])
    prefixes.forget(pool[0])
    assert prefixes.match([1, 2]) == {pool[1]: 1}
    prefixes.add(pool[0], [7])
    assert prefixes.match([7]) == {pool[0]: 1}
    prefixes.forget(pool[0])
    prefixes.forget(pool[1])
    assert repr(prefixes) == "<Prefixes 0 blocks at 0 endpoints>"


def test_all_endpoints_together_keep_no_more_than_the_total() -> None:
    pool = make_pool(10)
    prefixes = Prefixes(total=1000)
    for number, endpoint in enumerate(pool * 3):
        prefixes.add(endpoint, range(number * 500, number * 500 + 400))
    assert (
        sum(prefixes.count(endpoint, range(at, at + 400)) for endpoint in pool for at in range(0, 15000, 500)) <= 1000
    )


@pytest.mark.parametrize("health", [Health.DOWN, Health.PROBATION, Health.CHECKING])
def test_an_endpoint_that_was_out_comes_back_with_nothing(health: Health) -> None:
    cells, changes = [Health.UP, Health.UP], [0]
    pool = [Endpoint(f"http://server-{slot}", slot, Row(cells, [0, 0], (), changes)) for slot in range(2)]
    prefixes, opened = prefixes_of(pool), OpenList(pool)
    opened.candidates()
    for endpoint in pool:
        prefixes.add(endpoint, [1])
    cells[0], changes[0] = health, 1
    opened.candidates()
    assert prefixes.match([1]) == {pool[1]: 1}


def test_a_reload_forgets_nothing_and_an_endpoint_is_in_one_index() -> None:
    pool = make_pool(3)
    first, other = prefixes_of(pool[:2]), prefixes_of(pool[2:])
    first.add(pool[0], [1])
    other.add(pool[2], [1])
    assert prefixes_of(pool) is first
    assert first.match([1]) == {pool[0]: 1}  # an endpoint that moves begins anew
    assert other.match([1]) == {}


def test_blocks_are_whole_and_chained() -> None:
    text = bytes(range(256)) * 4
    assert len(chain_of(text[: 3 * BLOCK + 255])) == 3
    assert chain_of(text)[:2] == chain_of(text[: 2 * BLOCK])
    assert len(set(chain_of(text))) == 4  # equal blocks, but not what comes before them
    assert len(chain_of(b"x" * (BLOCK * (LONGEST + 2)))) == LONGEST


def test_a_prompt_of_32k_tokens_is_hashed_matched_and_added_within_a_few_milliseconds() -> None:
    """Measured: 0.3 ms alone on a core. The best of ten, with room for a busy machine."""
    pool, dice = make_pool(64), Random(1)
    prefixes = Prefixes()
    prompt = read_prompt(dice.randbytes(128 * 1024))
    for endpoint in pool:
        prefixes.add(endpoint, prompt.chain[: dice.randrange(512)])
    seconds = []
    for _ in range(10):
        start = perf_counter()
        chain = chain_of(dice.randbytes(1) + b"x" * (128 * 1024 - 1))
        prefixes.match(prompt.chain)
        prefixes.add(pool[0], chain)
        seconds.append(perf_counter() - start)
    assert min(seconds) < 0.005
