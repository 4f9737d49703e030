"""Which addresses may ask."""

from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Forbidden
from gateway.model import Exchange
from plugins.ip_filter import IPFilter
from tests.plugins.driver import Model, asked


def is_let_in(address: str, **options: Any) -> bool:
    layer = IPFilter(Model(), **options)
    try:
        asked(layer, exchange=Exchange("r", 0.0, address))
    except Forbidden:
        return False
    return True


@pytest.mark.parametrize(
    ("address", "options", "expected"),
    [
        ("10.1.2.3", {"allow": ["10.0.0.0/8"]}, True),
        ("11.1.2.3", {"allow": ["10.0.0.0/8"]}, False),
        ("11.1.2.3", {"deny": ["10.0.0.0/8"]}, True),
        ("10.1.2.3", {"deny": ["10.0.0.0/8"]}, False),
        ("10.1.2.3", {"allow": ["10.0.0.0/8"], "deny": ["10.1.0.0/16"]}, False),
        ("10.2.2.3", {"allow": ["10.0.0.0/8"], "deny": ["10.1.0.0/16"]}, True),
        ("10.1.2.3", {"allow": ["10.1.2.3"]}, True),
        ("::ffff:10.1.2.3", {"allow": ["10.0.0.0/8"]}, True),
        ("::ffff:10.1.2.3", {"deny": ["10.0.0.0/8"]}, False),
        ("10.1.2.3", {"deny": ["::ffff:10.0.0.0/104"]}, False),
        ("11.1.2.3", {"deny": ["::ffff:10.0.0.0/104"]}, True),
        ("2001:db8::1", {"allow": ["2001:db8::/32"]}, True),
        ("2001:db9::1", {"allow": ["2001:db8::/32"]}, False),
        ("10.1.2.3", {"allow": ["::/0"]}, False),
        ("fe80::1%eth0", {"allow": ["fe80::/10"]}, True),
        ("", {"deny": ["10.0.0.0/8"]}, False),
        ("testclient", {"deny": ["10.0.0.0/8"]}, False),
    ],
)
def test_deny_wins_and_allow_if_given_must_cover(address: str, options: dict[str, Any], expected: bool) -> None:
    assert is_let_in(address, **options) is expected


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 32), st.booleans())
def test_a_mapped_address_is_treated_as_the_one_it_maps(
    address: IPv4Address, network: IPv4Address, bits: int, is_allow: bool
) -> None:
    cidr = str(ip_network((network, bits), strict=False))
    options = {"allow" if is_allow else "deny": [cidr]}
    expected = (address in ip_network(cidr)) is is_allow
    assert is_let_in(str(address), **options) is expected
    assert is_let_in(f"::ffff:{address}", **options) is expected
    assert is_let_in(str(ip_address(f"::ffff:{address}")), **options) is expected


def test_a_decision_is_remembered_and_so_is_the_bound() -> None:
    layer = IPFilter(Model(), allow=["10.0.0.0/8"])
    for _ in range(3):
        asked(layer, exchange=Exchange("r", 0.0, "10.0.0.1"))
    info = layer.is_refused.cache_info()
    assert (info.hits, info.misses) == (2, 1)
    assert info.maxsize is not None


def test_a_websocket_is_filtered_too_and_lifespan_is_not() -> None:
    layer = IPFilter(lambda *_: _nothing(), allow=["10.0.0.0/8"])
    with pytest.raises(Forbidden):
        asked(layer, type="websocket", exchange=Exchange("r", 0.0, "192.0.2.1"))
    assert asked(layer, type="lifespan", exchange=Exchange("r", 0.0, "192.0.2.1")).status == 0


async def _nothing() -> None:
    pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give `allow` or `deny`"),
        ({"allow": []}, "give `allow` or `deny`"),
        ({"allow": "10.0.0.0/8"}, "`allow` must be a list"),
        ({"allow": [10]}, "`allow` must be a list"),
        ({"deny": ["10.0.0.1/8"]}, "`deny`: 10.0.0.1/8 has host bits set"),
        ({"deny": ["localhost"]}, "`deny`: 'localhost' does not appear"),
    ],
)
def test_an_option_that_means_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as refused:
        IPFilter(Model(), **options)
    assert message in str(refused.value)
