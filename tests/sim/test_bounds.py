"""The bounds are none if a run of the simulator beats them."""

import pytest

from tests.sim.bounds import PROMPTS, RATES, idle, present
from tests.sim.engine import H100
from tests.sim.scenarios import SCENARIOS, run
from tests.sim.world import Request, World


@pytest.mark.parametrize("prompt", PROMPTS)
def test_alone_an_engine_takes_exactly_the_bound_to_the_first_token(prompt: int) -> None:
    world = World([H100], "lpwl", 1)
    (request,) = world.run([(0.0, Request(prompt, 1))])
    assert request.first == pytest.approx(idle(H100, prompt))


def test_a_fluid_waits_less_than_requests_that_come_by_chance() -> None:
    found = run(SCENARIOS["heavy tail"], "round_robin", 1, 60.0).done
    evenly = 8 * present([rate / 8 for rate in RATES]) / sum(RATES)
    assert 0.0 < evenly < sum([each.end - each.arrived for each in found]) / len(found)


def test_what_no_engine_can_carry_has_no_bound() -> None:
    assert present(RATES) == float("inf")
