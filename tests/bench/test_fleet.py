"""The bench of balancing: its requests, its figures, its verdicts, and its clients against a real engine."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from bench.fleet import report
from bench.fleet.load import text
from bench.fleet.peers import OURS, PEERS, QUEUED
from bench.fleet.report import Figures, figures, missed, newcomers, quantile
from bench.fleet.scenarios import SCENARIOS, Ask, heavy_tail, long_conversations, sessions, zipf
from bench.processes import Failed
from gateway.demo.engine import BLOCK, PROFILES
from tests.e2e.harness import DemoModel

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("traffic", [heavy_tail, sessions, zipf, long_conversations])
def test_requests_come_in_order_within_the_time_and_are_the_same_for_one_seed(traffic) -> None:
    try:
        asks = traffic(Random(7), 10.0)
    except Failed as failure:  # a recorded trace, which lies beside the project and not in it
        pytest.skip(str(failure))
    assert asks == traffic(Random(7), 10.0) != traffic(Random(8), 10.0)
    assert all(0.0 <= ask.at < 10.0 and ask.prompt >= 1 and ask.output >= 1 for ask in asks)
    assert asks == sorted(asks, key=lambda ask: ask.at)


def test_a_turn_of_a_session_begins_with_the_turns_before_it() -> None:
    asks = [ask for ask in sessions(Random(1), 60.0) if ask.parts[1][0].startswith("user 5 ")]
    assert len(asks) > 1
    for before, after in itertools.pairwise(asks):
        assert after.parts[: len(before.parts)] == before.parts


def test_equal_beginnings_have_equal_texts_of_the_right_length_and_others_differ_at_once() -> None:
    one = text([("system 1", 2000), ("own 1", 300)])
    other = text([("system 1", 2000), ("own 2", 300)])
    assert len(one) == 2300 * 4
    assert one[:8000] == other[:8000]
    assert one[8000 : 8000 + 4 * BLOCK] != other[8000 : 8000 + 4 * BLOCK]


def test_every_scenario_has_eight_engines_that_there_are() -> None:
    for scenario in SCENARIOS.values():
        assert len(scenario.engines) == 8 > scenario.late
        assert {engine.profile for engine in scenario.engines} <= PROFILES.keys()


def test_what_comes_late_slowly_or_not_at_all_is_a_miss_in_the_engines_time() -> None:
    asks = [Ask(0.0, (("own", 10),), 101)] * 5
    results = [
        (200, 4.0, 12.0),  # at half the speed: 2 s, and 40 ms for each token
        (200, 4.1, 12.0),  # too late
        (200, 1.0, 14.0),  # 65 ms for each token
        (500, 0.0, 0.01),
        (0, 0.0, 1.0),
    ]
    found = figures(asks, results, 0.5)
    assert (found.goodput, found.failed, found.p50) == (0.2, 2, 2.0)


def test_a_quantile_is_a_value_that_was_seen() -> None:
    assert [quantile(list(range(100)), share) for share in (0.5, 0.99, 1.0)] == [50, 99, 99]
    assert quantile([], 0.5) == float("inf")


def figure(goodput: float, p99: float) -> Figures:
    return Figures(goodput, 0.1, p99, 5.0, 0)


def test_a_share_is_that_of_the_one_that_had_most_in_the_five_seconds_after_the_first_was_asked() -> None:
    before = [(at * 0.1, port) for at in range(50) for port in (1, 2)]
    early = [(5.0 + at * 0.1, port) for at in range(50) for port in (1, 2, 3, 3, 4)]
    later = [(10.0 + at * 0.1, 4) for at in range(50)]
    assert newcomers(before + early + later, [1, 2, 3, 4], 2, 1.0) == pytest.approx(2 / 5 * 4)
    assert newcomers(before + early + later, [1, 2, 3, 4], 2, 0.5) == pytest.approx(100 / 300 * 4)  # 10 s of the clock
    assert newcomers(before, [1, 2, 3, 4], 2, 1.0) == 0.0


def test_one_that_joined_is_neither_to_be_flooded_nor_to_be_left_idle() -> None:
    fair, flooded, idle = (figure(1.0, 1.0)._replace(share=share) for share in (1.5, 2.1, 0.0))
    assert missed("x", {OURS: fair, "a": flooded}) == []
    assert len(missed("x", {OURS: flooded, "a": fair})) == len(missed("x", {OURS: idle})) == 1


def test_shares_are_shown_where_engines_join() -> None:
    plain, joined = figure(1.0, 1.0), figure(1.0, 1.0)._replace(share=1.5)
    assert "share" not in report.table("x", {OURS: plain})
    *_, last = report.table("x", {OURS: joined}).splitlines()
    assert last.endswith("| 0 | 1.50 x |")


def test_ours_is_to_be_the_best_or_as_good_and_speed_for_few_is_no_rival() -> None:
    assert missed("x", {OURS: figure(0.99, 1.0), "a": figure(1.0, 1.0), "b": figure(0.5, 0.2)}) == []
    assert len(missed("x", {OURS: figure(0.90, 1.0), "a": figure(1.0, 1.0)})) == 1
    assert len(missed("x", {OURS: figure(1.0, 1.5), "a": figure(1.0, 1.0)})) == 1
    assert missed("x", {OURS: figure(1.0, 1.0)}) == []
    assert missed("x", {OURS: figure(0.6, 1.0), QUEUED: figure(0.9, 1.0), "a": figure(0.7, 1.0)}) == []


def test_what_is_for_some_scenarios_is_for_scenarios_that_there_are() -> None:
    assert {name for peer in PEERS.values() for name in peer.only} <= SCENARIOS.keys()


def test_what_was_measured_before_is_kept_if_it_was_measured_alike(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    report.remember(path, {"speed": 1.0}, {}, {"a": {OURS: figure(1.0, 1.0)}})
    assert list(report.remember(path, {"speed": 1.0}, {}, {"b": {OURS: figure(0.9, 1.0)}})) == ["a", "b"]
    assert list(report.remember(path, {"speed": 0.5}, {}, {"b": {OURS: figure(0.9, 1.0)}})) == ["b"]


def test_clients_see_first_tokens_ends_and_failures() -> None:
    with DemoModel(engine="h100", speed=5) as good:
        urls = {"good": f"{good.url}/v1/chat/completions", "gone": "http://127.0.0.1:1/v1/chat/completions"}
        asks = [[0.0, [["own 1", 500]], 40], [0.05, [["own 2", 500]], 1]]
        plan = {"began": 0.0, "speed": 1.0, "urls": urls, "asks": asks}
        command = [sys.executable, "-m", "bench.fleet.load", "none"]
        done = subprocess.run(
            command, input=json.dumps(plan) + "\n", cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
        )
    results = json.loads(done.stdout)
    assert [status for status, _, _ in results["gone"]] == [0, 0]
    for status, first, end in results["good"]:
        assert (status, 0.0 < first <= end) == (200, True)
