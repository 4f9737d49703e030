"""An endpoint: its address, what its health permits, its leases, its averages."""

from collections.abc import Sequence
from math import exp, inf, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.endpoint import TAU, Address, Endpoint, Health, Row


def an_endpoint(health: Health = Health.UP, others: Sequence[Sequence[int]] = ()) -> Endpoint:
    return Endpoint("http://server:8000", 1, Row([0, health], [0, 0], others))


@pytest.mark.parametrize(
    ("url", "address", "authority"),
    [
        ("http://server", Address("http", "server", 80, b""), b"server"),
        ("http://server:80/", Address("http", "server", 80, b""), b"server"),
        ("https://server", Address("https", "server", 443, b""), b"server"),
        ("https://server:80", Address("https", "server", 80, b""), b"server:80"),
        ("http://10.0.0.7:8000/v3/models/", Address("http", "10.0.0.7", 8000, b"/v3/models"), b"10.0.0.7:8000"),
        ("http://[::1]:9000", Address("http", "::1", 9000, b""), b"[::1]:9000"),
    ],
)
def test_a_url_is_an_address(url: str, address: Address, authority: bytes) -> None:
    assert Address.parse(url) == address
    assert address.authority == authority


@pytest.mark.parametrize(
    "url",
    [
        "server:8000", "ftp://server", "http://", "http://server?x=1", "http://server#x", "http://u:p@server",
        "http://server:99999", "",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        Address.parse(url)


@pytest.mark.parametrize(
    ("health", "may_keep"),
    [
        (Health.CHECKING, True),
        (Health.UP, True),
        (Health.PROBATION, False),
        (Health.DOWN, False),
        (Health.DRAINING, True),
    ],
)
def test_health_says_which_sessions_may_stay(health: Health, may_keep: bool) -> None:
    endpoint = an_endpoint(health)
    assert (endpoint.health, endpoint.may_keep) == (health, may_keep)


def test_fresh_memory_means_checking() -> None:
    assert Endpoint("http://server", 0, Row(bytes(1), [0])).health is Health.CHECKING


def test_a_lease_counts_here_and_in_the_zone_until_it_ends() -> None:
    endpoint = an_endpoint(others=[[0, 4], [0, 2]])
    with endpoint.lease() as held:
        assert held is endpoint
        with endpoint.lease():
            assert (endpoint.in_flight, endpoint.row.in_flight[1], endpoint.load) == (2, 2, 8)
    assert (endpoint.in_flight, endpoint.row.in_flight[1], endpoint.load) == (0, 0, 6)


def test_a_lease_ends_when_the_exchange_fails() -> None:
    endpoint = an_endpoint()
    with pytest.raises(ZeroDivisionError), endpoint.lease():
        _ = 1 / 0
    assert (endpoint.in_flight, endpoint.pending, endpoint.row.in_flight[1]) == (0, 0, 0)


@given(st.lists(st.booleans(), max_size=60))
def test_leases_that_overlap_in_any_way_add_up(steps: list[bool]) -> None:
    endpoint = an_endpoint()
    open_leases = []
    for is_start in steps:
        if is_start:
            open_leases.append(endpoint.lease())
            open_leases[-1].__enter__()
        elif open_leases:
            open_leases.pop(len(open_leases) // 2).__exit__(None, None, None)
        assert endpoint.in_flight == endpoint.pending == endpoint.row.in_flight[1] == len(open_leases)


def test_an_endpoint_shows_its_state() -> None:
    endpoint = an_endpoint(Health.DRAINING)
    endpoint.observe(0.25, 1.0)
    with endpoint.lease():
        assert repr(endpoint) == "<Endpoint http://server:8000 draining in_flight=1 latency=0.2500>"


# --- averages ---------------------------------------------------------------------------------------------------------


def test_the_first_sample_is_the_average() -> None:
    endpoint = an_endpoint()
    assert (endpoint.latency, endpoint.peak, endpoint.rank) == (0.0, 0.0, -inf)
    endpoint.observe(0.3, 77.0)
    assert (endpoint.latency, endpoint.peak, endpoint.latency_at) == (0.3, 0.3, 77.0)


@pytest.mark.parametrize("samples", [1, 10, 1000])
def test_after_tau_an_average_has_come_63_percent_of_the_way_however_many_samples_there_were(samples: int) -> None:
    endpoint = an_endpoint()
    endpoint.observe(2.0, 0.0)
    for sample in range(1, samples + 1):
        endpoint.observe(1.0, TAU * sample / samples)
    assert endpoint.latency == pytest.approx(1.0 + exp(-1))


def test_the_peak_jumps_up_at_once_and_comes_down_with_tau() -> None:
    endpoint = an_endpoint()
    endpoint.observe(0.1, 0.0)
    endpoint.observe(3.0, 0.001)
    assert endpoint.peak == 3.0
    assert endpoint.latency == pytest.approx(0.1, abs=0.001)
    endpoint.observe(0.1, TAU + 0.001)
    assert endpoint.peak == pytest.approx(3.0 * exp(-1) + 0.1 * (1 - exp(-1)))


def test_a_clock_that_is_a_little_late_changes_nothing_for_the_worse() -> None:
    endpoint = an_endpoint()
    endpoint.observe(1.0, 100.0)
    endpoint.observe(500.0, 99.9)
    assert (endpoint.latency, endpoint.latency_at) == (1.0, 100.0)
    assert endpoint.peak == 500.0


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=30),
    st.floats(0, 1e7),
)
def test_averages_stay_between_the_least_and_the_greatest_sample(
    samples: list[tuple[float, float]], start: float
) -> None:
    endpoint = an_endpoint()
    now = start
    for seconds, gap in samples:
        now += gap
        endpoint.observe(seconds, now)
        lowest, highest = min(s for s, _ in samples), max(s for s, _ in samples)
        assert lowest * (1 - 1e-9) <= endpoint.latency <= endpoint.peak * (1 + 1e-9)
        assert endpoint.peak <= highest * (1 + 1e-9)


@given(st.floats(0.001, 60), st.floats(0, 300), st.floats(0.001, 60), st.floats(0, 300))
def test_ranks_compare_as_averages_aged_to_the_same_moment(
    first: float, first_at: float, second: float, second_at: float
) -> None:
    one, two = an_endpoint(), an_endpoint()
    one.observe(first, first_at)
    two.observe(second, second_at)
    now = 300.0
    aged_one = first * exp(-(now - first_at) / TAU)
    aged_two = second * exp(-(now - second_at) / TAU)
    assert one.rank - two.rank == pytest.approx(log(aged_one) - log(aged_two), abs=1e-9)


def test_an_instant_answer_has_a_rank() -> None:
    endpoint = an_endpoint()
    endpoint.observe(0.0, 0.0)
    assert endpoint.rank > -inf
