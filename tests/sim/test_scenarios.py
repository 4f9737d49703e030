"""The scenarios in small: what they promise for `llm`, and that the rivals come out as they do elsewhere.

The whole table, with longer runs and more seeds: `python -m tests.sim`.
"""

from functools import cache

from tests.sim import traces
from tests.sim.engine import A100, H100
from tests.sim.measure import Figures, figures
from tests.sim.scenarios import SCENARIOS, conversations, run


@cache
def measured(name: str, policy: str, seconds: float, *, is_late: bool = False) -> Figures:
    scenario = SCENARIOS[name]
    if scenario.trace:
        traces.need(scenario.trace)
    return figures(run(scenario, policy, 1, seconds, is_late=is_late))


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = (run(SCENARIOS["heavy tail"], "llm", 7, 10.0) for _ in range(2))
    assert figures(first) == figures(second)


def test_a_mixed_fleet_needs_no_weights() -> None:
    found = measured("mixed fleet", "llm", 60.0)
    assert found.goodput >= 0.99
    assert found.whole_p99 <= 12.0
    assert measured("mixed fleet", "round_robin", 60.0).goodput < 0.75
    assert measured("mixed fleet", "least_connections", 60.0).goodput < found.goodput


def test_short_prompts_are_not_put_behind_long_ones() -> None:
    found, rival = measured("heavy tail", "llm", 60.0), measured("heavy tail", "lmetric", 60.0)
    assert found.goodput >= 0.98
    assert found.first_p90 <= 0.15
    assert found.whole_mean < 0.9 * rival.whole_mean


def test_conversations_stay_where_their_beginnings_are_kept() -> None:
    found, rival = measured("sessions", "llm", 60.0), measured("sessions", "lpwl", 60.0)
    assert found.goodput > rival.goodput + 0.1
    assert found.first_p50 < 0.7 * rival.first_p50


def test_a_mixed_fleet_keeps_as_many_conversations_as_its_caches_hold() -> None:
    """From its second minute on the fastest have been sent more than that, were more remembered of them."""
    mixed = SCENARIOS["sessions"]._replace(fleet=[A100] * 4 + [H100] * 4)
    found, rival = (figures(run(mixed, policy, 1)) for policy in ("llm", "cache_aware"))
    assert found.goodput >= rival.goodput


def test_a_fleet_that_cannot_carry_its_load_keeps_more_of_it_in_time_than_by_counts() -> None:
    traces.need(traces.AZURE_CONV)
    flooded = SCENARIOS["mixed fleet"]._replace(traffic=conversations(100.0))
    found, rival = (figures(run(flooded, policy, 1, 40.0)) for policy in ("llm", "least_connections"))
    assert found.goodput > rival.goodput


def test_a_real_conversation_trace_is_no_worse_than_by_the_least_prefill() -> None:
    found, rival = measured("mooncake", "llm", 100.0), measured("mooncake", "lpwl", 100.0)
    assert found.goodput >= rival.goodput - 0.01
    assert found.first_p90 <= 1.8


def test_a_hot_prefix_is_spread() -> None:
    """Half a minute after a cold start; in the long run its 99th percentile is a third less."""
    assert measured("hot spot", "llm", 30.0).first_p99 <= 0.5
    assert measured("hot spot", "ip_hash", 30.0).first_p99 > 5.0


def test_a_burst_is_held_in_the_gateway_and_bound_late() -> None:
    held, bound = measured("burst", "llm", 120.0, is_late=True), measured("burst", "llm", 120.0)
    assert held.goodput >= max(0.88, bound.goodput)


def test_one_that_fails_fast_draws_no_flood() -> None:
    assert measured("fails fast", "llm", 30.0).success >= 0.998
    assert measured("fails fast, retry", "llm", 30.0).success == 1.0


def test_one_that_is_six_times_as_slow_gets_little() -> None:
    found = measured("slow", "llm", 60.0)
    assert found.goodput >= 0.997
    assert found.goodput > measured("slow", "peak_ewma", 60.0).goodput


def test_new_endpoints_are_found_at_once_and_not_flooded() -> None:
    found = measured("scale-out", "llm", 60.0)
    assert found.first_p99 <= 0.35
    assert 0.1 < found.share <= 2.0
