"""Policies that read prompts: each one's rule, and what the default learns."""

from collections import Counter
from random import Random

import pytest

from gateway.core.endpoint import Endpoint
from gateway.core.pick import PROMPTED
from gateway.core.pick.llm import Llm
from gateway.core.pick.prefill import LeastPrefill, LMetric, StickyUntilSaturated
from gateway.core.pick.prefix import CacheAware, PrefixHash
from gateway.core.prompt import Prompt
from gateway.core.work import EngineLoad, Stream
from tests.core.simulated_pool import make_pool

DICE = Random(1)


def hold(endpoint: Endpoint, leases: int) -> None:
    for _ in range(leases):
        endpoint.lease().__enter__()


def wait(endpoint: Endpoint, tokens: int) -> Stream:
    """A prompt of its own is sent there."""
    hold(endpoint, 1)
    return endpoint.work.begin(tokens, 0, 100, 0.0)


@pytest.mark.parametrize("name", sorted(PROMPTED))
def test_a_prompt_goes_to_a_candidate_and_all_that_it_left_is_gone_at_its_end(name: str) -> None:
    pool, dice = make_pool(5), Random(2)
    policy = PROMPTED[name](pool)
    running: list[Stream] = []
    for number in range(300):
        now = number / 50
        among = dice.sample(pool, dice.randint(1, 5))
        prompt = Prompt(dice.randint(1, 5000), [dice.randrange(40) for _ in range(dice.randrange(5))], b"%d" % number)
        endpoint = policy.choose(among, prompt, now, dice)
        assert endpoint in among
        running.append(policy.begin(endpoint, prompt, now))
        if len(running) > 20:
            stream = running.pop(dice.randrange(len(running)))
            if dice.random() < 0.8:
                stream.first(now)
            stream.end(now, 30)
    for stream in running:
        stream.end(10.0)
    assert {(e.work.pending, e.work.running, e.work.context, len(e.work.waiting)) for e in pool} == {(0, 0, 0, 0)}


def test_least_prefill_counts_what_is_pending_and_what_is_not_kept() -> None:
    pool = make_pool(3)
    policy = LeastPrefill(pool)
    wait(pool[0], 500)
    wait(pool[1], 2000)
    wait(pool[2], 2000)
    prompt = Prompt(1600, range(25))
    policy.begin(pool[2], prompt, 0.0).end(0.0)
    assert policy.choose(pool, prompt, 0.0, DICE) is pool[2]  # 2001, where 2100 and 3600 are
    assert policy.choose(pool, Prompt(1600), 0.0, DICE) is pool[0]


def test_lmetric_multiplies_tokens_by_requests() -> None:
    pool = make_pool(2)
    policy = LMetric(pool)
    hold(pool[0], 3)
    wait(pool[1], 2000)
    assert policy.choose(pool, Prompt(500), 0.0, DICE) is pool[0]  # 500 x 4, 2500 x 2
    assert policy.choose(pool, Prompt(5000), 0.0, DICE) is pool[1]  # 5000 x 4, 7000 x 2


def test_cache_aware_follows_the_cache_until_loads_are_uneven() -> None:
    pool = make_pool(2)
    policy = CacheAware(pool)
    prompt = Prompt(640, range(10))
    policy.begin(pool[0], prompt, 0.0).end(0.0)
    hold(pool[0], 64)
    assert policy.choose(pool, prompt, 0.0, DICE) is pool[0]
    assert policy.choose(pool, Prompt(640, [*range(3), 70, 71]), 0.0, DICE) is pool[1]  # three of ten are not enough
    hold(pool[0], 1)
    assert policy.choose(pool, prompt, 0.0, DICE) is pool[1]


def test_prefix_hash_needs_no_index_and_leaves_the_overloaded() -> None:
    pool = make_pool(4)
    policy = PrefixHash(pool)
    home = policy.choose(pool, Prompt(100, head=b"You are"), 0.0, DICE)
    other = make_pool(4)
    assert PrefixHash(other).choose(other, Prompt(900, head=b"You are"), 9.0, DICE).url == home.url
    hold(home, 5)
    assert policy.choose(pool, Prompt(100, head=b"You are"), 0.0, DICE) is not home


def test_sticky_leaves_one_that_is_saturated_by_its_queue_or_by_its_own_word() -> None:
    pool = make_pool(2)
    policy = StickyUntilSaturated(pool)
    prompt = Prompt(640, range(10))
    policy.begin(pool[0], prompt, 0.0).end(0.0)
    hold(pool[0], 5)
    assert policy.choose(pool, prompt, 0.0, DICE) is pool[0]
    pool[0].work.engine = EngineLoad(10.0, 0, 5, 0.9)
    assert policy.choose(pool, prompt, 11.0, DICE) is pool[1]
    assert policy.choose(pool, prompt, 20.0, DICE) is pool[0]  # that is old news
    hold(pool[0], 1)
    assert policy.choose(pool, prompt, 20.0, DICE) is pool[1]


# --- the default ------------------------------------------------------------------------------------------------------


def teach(pool: list[Endpoint], seconds: list[tuple[float, float]], until: float = 30.0) -> None:
    """Each endpoint shows its seconds for a thousand tokens of prompt, and for one of output."""
    dice = Random(5)
    for number in range(60):
        began = until * number / 60
        for endpoint, (thousand, each) in zip(pool, seconds, strict=True):
            tokens = dice.randint(100, 3000)
            stream = endpoint.work.begin(tokens, 0, 100, began)
            stream.first(began + thousand * tokens / 1000)
            stream.end(began + thousand * tokens / 1000 + 100 * each, 101)


def test_it_learns_how_fast_each_endpoint_is() -> None:
    pool = make_pool(3)
    policy = Llm(pool)
    teach(pool, [(0.04, 0.008), (0.04, 0.008), (0.16, 0.03)])
    policy.choose(pool, Prompt(100), 31.0, DICE)
    assert pool[0].work.a == pytest.approx(40e-6, rel=0.05)
    assert pool[2].work.a == pytest.approx(160e-6, rel=0.05)
    pace = [endpoint.work.e + endpoint.work.d * endpoint.work.context for endpoint in pool]
    assert pace[2] / pace[0] == pytest.approx(30 / 8, rel=0.3)


def test_one_sample_each_does_not_tell_endpoints_apart() -> None:
    """The first stream to end is a short one, which a prompt of somebody else's held up: its endpoint is not slow."""
    pool = make_pool(2)
    policy = Llm(pool)
    for endpoint, each in zip(pool, (0.03, 0.12), strict=True):
        stream = policy.begin(endpoint, Prompt(1000), 0.0)
        stream.first(1.0)
        stream.end(1.0 + 10 * each, 11)
    policy.choose(pool, Prompt(100), 3.0, DICE)
    assert pool[1].work.e / pool[0].work.e < 1.6


@pytest.mark.parametrize("samples", [1, 2])
def test_first_prompts_of_like_length_still_show_that_more_tokens_take_longer(samples: int) -> None:
    """All took about as long: taken for a matter of the endpoints alone, nothing that waits there would count."""
    pool, dice = make_pool(8), Random(4)
    policy = Llm(pool)
    for _ in range(samples):
        for endpoint in pool:
            stream = endpoint.work.begin(dice.randint(2200, 2600), 0, 100, 0.0)
            stream.first(0.34 if endpoint is pool[3] else 0.36)
            stream.end(1.0, 101)
    wait(pool[3], 8000)
    assert policy.choose(pool, Prompt(2400), 1.0, DICE) is not pool[3]
    assert pool[3].work.a == pytest.approx(0.35 / 2400, rel=0.3)


def test_it_learns_from_answers_in_one_piece_too() -> None:
    pool, dice = make_pool(2), Random(3)
    policy = Llm(pool)
    for number in range(200):
        now = number * 2.0
        policy.choose(pool, Prompt(100), now, dice)
        for endpoint, factor in zip(pool, (1.0, 4.0), strict=True):
            tokens, output = dice.randint(100, 3000), dice.randint(20, 300)
            stream = policy.begin(endpoint, Prompt(tokens), now)
            stream.presume(now)
            ended = now + factor * (0.01 + 40e-6 * tokens + 0.008 * output)
            stream.learn_whole(ended, output)
            stream.end(ended)
    speeds = [e.work.b + e.work.a * 1000 + 150 * (e.work.e + e.work.d * e.work.context) for e in pool]
    assert speeds[1] / speeds[0] == pytest.approx(4.0, rel=0.2)
    assert speeds[0] == pytest.approx(0.05 + 150 * 0.008, rel=0.2)


def test_a_lone_client_whose_answers_come_in_one_piece_teaches_it_too() -> None:
    """Nothing else ran meanwhile: all that is known of the seconds for a token was seen beside an empty cache."""
    pool, dice = make_pool(2), Random(3)
    policy = Llm(pool)
    for number in range(20):
        now = number * 2.0
        endpoint = policy.choose(pool, Prompt(100), now, dice)
        stream = policy.begin(endpoint, Prompt(100), now)
        stream.learn_whole(now + 1.5, 50)
        stream.end(now + 1.5)
    assert {e.work.speed.each.mean_x for e in pool} == {0.0}
    policy.choose(pool, Prompt(100), 40.0, dice)
    for work in (e.work for e in pool):
        assert work.b + work.a * 100 + 50 * work.e == pytest.approx(1.5, rel=0.2)
        assert work.d == pytest.approx(1e-7 * work.e / 0.01, rel=0.01)


def test_an_endpoint_that_nothing_is_known_of_is_like_the_others() -> None:
    pool = make_pool(4)
    policy = Llm(pool)
    teach(pool[:3], [(0.04, 0.008)] * 3)
    chosen: Counter[int] = Counter()
    for _ in range(16):
        endpoint = policy.choose(pool, Prompt(500), 31.0, DICE)
        hold(endpoint, 1)
        policy.begin(endpoint, Prompt(500), 31.0)
        chosen[endpoint.slot] += 1
    assert pool[3].work.a == pytest.approx(40e-6, rel=0.1)
    assert chosen == {0: 4, 1: 4, 2: 4, 3: 4}


def test_a_slow_one_is_left_alone_and_asked_again_when_that_is_long_ago() -> None:
    pool = make_pool(4)
    policy = Llm(pool)
    teach(pool, [(0.04, 0.008)] * 3 + [(0.24, 0.048)])
    assert 3 not in {policy.choose(pool, Prompt(100), 31.0, DICE).slot for _ in range(100)}
    teach(pool[:3], [(0.04, 0.008)] * 3, until=400.0)
    hold(pool[0], 1)
    hold(pool[1], 1)
    hold(pool[2], 1)
    assert policy.choose(pool, Prompt(100), 400.0, DICE) is pool[3]


def test_one_that_is_late_with_a_first_token_is_sent_no_more() -> None:
    pool = make_pool(2)
    policy = Llm(pool)
    teach(pool, [(0.04, 0.008)] * 2)
    policy.begin(pool[0], Prompt(1000), 31.0)
    assert {policy.choose(pool, Prompt(100), 33.0, DICE).slot for _ in range(50)} == {1}


def test_a_kept_beginning_draws_a_prompt_unless_too_much_waits_there() -> None:
    pool = make_pool(2)
    policy = Llm(pool)
    teach(pool, [(0.04, 0.008)] * 2)
    prompt = Prompt(6400, range(100))
    policy.begin(pool[1], prompt, 30.0).end(30.0)
    assert {policy.choose(pool, prompt, 31.0, DICE).slot for _ in range(50)} == {1}
    policy.begin(pool[1], Prompt(60_000), 31.0)
    assert policy.choose(pool, prompt, 31.0, DICE) is pool[0]


@pytest.mark.parametrize(("length", "chosen"), [(100, 0), (50_000, 1)])
def test_a_beginning_that_many_share_is_kept_twice_where_there_is_time_to_prefill_it(length: int, chosen: int) -> None:
    """`length`: tokens that both endpoints have prefilled lately."""
    pool = make_pool(2)
    policy = Llm(pool)
    teach(pool, [(0.04, 0.008)] * 2)
    prompt = Prompt(6400, range(100))
    hold(pool[1], 20)
    for _ in range(20):
        policy.begin(pool[1], prompt, 40.0).first(40.3)
    for endpoint in pool:
        stream = endpoint.work.begin(length, 0, 100, 57.0)
        stream.first(57.0 + 4e-5 * length)
        stream.end(60.0)
    assert policy.choose(pool, prompt, 60.0, DICE) is pool[chosen]


def test_a_long_prompt_goes_where_it_stops_fewer_streams() -> None:
    pool = make_pool(2)
    policy = Llm(pool)
    teach(pool, [(0.04, 0.008)] * 2)
    hold(pool[0], 30)
    policy.begin(pool[1], Prompt(1500), 31.0)
    hold(pool[1], 1)
    assert policy.choose(pool, Prompt(40_000), 31.0, DICE) is pool[1]
    assert policy.choose(pool, Prompt(50), 31.0, DICE) is pool[0]


def test_failures_cost_seconds() -> None:
    pool = make_pool(2)
    policy = Llm(pool)
    teach(pool, [(0.04, 0.008)] * 2)
    pool[0].standing.fail(31.0)
    assert {policy.choose(pool, Prompt(100), 31.0, DICE).slot for _ in range(50)} == {1}


# --- what engines say -------------------------------------------------------------------------------------------------


def hear(policy: Llm, endpoint: Endpoint, load: EngineLoad, first: float, seconds: int) -> float:
    """Its engine says this each second; -> when it last did."""
    for second in range(seconds):
        endpoint.work.engine = load._replace(at=first + second)
        policy.choose([endpoint], Prompt(100), first + second, DICE)
    return first + seconds - 1


def test_requests_that_came_by_other_ways_count_as_long_as_the_engine_says_so() -> None:
    pool = make_pool(2)
    policy = Llm(pool)
    teach(pool, [(0.04, 0.008), (0.04, 0.008)])
    mine = [policy.begin(endpoint, Prompt(400), 30.0) for endpoint in pool for _ in range(10)]
    for stream in mine:
        stream.first(30.1)
    hold(pool[0], 10)
    hold(pool[1], 12)
    prompt = Prompt(400)
    assert policy.choose(pool, prompt, 31.0, DICE) is pool[0]
    now = hear(policy, pool[0], EngineLoad(0.0, waiting=0, running=10, kv_usage=0.1), 31.0, 10)
    assert (pool[0].work.strange, policy.choose(pool, prompt, now + 0.1, DICE)) == (0.0, pool[0])
    now = hear(policy, pool[0], EngineLoad(0.0, waiting=5, running=40, kv_usage=0.1), 41.0, 10)
    assert pool[0].work.strange == pytest.approx(35.0, abs=2.0)
    assert pool[0].work.strange_ahead > 0.0
    assert policy.choose(pool, prompt, now + 0.1, DICE) is pool[1]
    assert policy.choose(pool, prompt, now + 9.0, DICE) is pool[0]  # it has not said so for long
    assert pool[0].work.strange == 0.0


def test_who_finds_the_cache_full_waits_for_room() -> None:
    pool = make_pool(2)
    policy = Llm(pool)
    teach(pool, [(0.04, 0.008), (0.04, 0.008)])
    for _ in range(30):
        policy.begin(pool[0], Prompt(3000), 30.0).first(30.1)
    hold(pool[0], 30)
    hold(pool[1], 31)
    for _ in range(31):
        policy.begin(pool[1], Prompt(3000), 30.0).first(30.1)
    now = hear(policy, pool[0], EngineLoad(0.0, waiting=0, running=30, kv_usage=0.9, cache=102_000), 31.0, 1)
    assert policy.choose(pool, Prompt(5000), now, DICE) is pool[0]
    assert policy.choose(pool, Prompt(40_000), now, DICE) is pool[1]  # 10,200 are free


def test_as_much_is_remembered_as_a_cache_holds_of_the_size_that_an_engine_tells() -> None:
    pool = make_pool(1)
    policy = Llm(pool)
    pool[0].work.engine = EngineLoad(0.0, 0, 0, 0.0, cache=6400)
    for number in range(30):
        policy.begin(pool[0], Prompt(640, range(number * 10, number * 10 + 10)), 0.0)
    kept = [number for number in range(30) if policy._prefixes.count(pool[0], [number * 10])]
    assert kept == list(range(20, 30))
