"""API keys: their form, and whom the table takes them for."""

import math
import string
import time
from statistics import median

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.stores.keys import EMPTY, KeyTable, LiveKeys, Pepper, Row, is_well_formed, key_id, mint

PEPPER = Pepper.of_text("a pepper for these tests")
BASE62 = string.digits + string.ascii_letters
_, SECRET = mint("0123456789")
KEY = SECRET.encode()


def row(secret: str, *, until: float = math.inf, name: str = "alice", pepper: Pepper = PEPPER) -> Row:
    return Row(pepper.digest(secret.encode()), until, key_id(secret.encode()) or "foreign000", name, ("iris",), {})


TABLE = KeyTable(PEPPER, [row(SECRET)])


def test_a_key_has_the_form_that_scanners_look_for() -> None:
    identity, secret = mint()
    prefix, name, rest = secret.split("_")
    assert (prefix, name, len(rest), len(secret)) == ("gw", identity, 49, 63)
    assert set(name + rest) <= set(BASE62)


def test_a_key_holds_all_256_bits_of_its_dice() -> None:
    bodies = set()
    for bit in range(256):
        _, secret = mint("0123456789", random=lambda n, bit=bit: (1 << bit).to_bytes(n))
        bodies.add(secret[14:57])
    assert len(bodies) == 256
    _, largest = mint("0123456789", random=lambda n: b"\xff" * n)
    _, smallest = mint("0123456789", random=bytes)
    assert is_well_formed(largest.encode())
    assert smallest[14:57] == "0" * 43


def test_ids_do_not_repeat() -> None:
    assert len({mint()[0] for _ in range(1000)}) == 1000


def test_an_old_key_stays_well_formed() -> None:
    """The form is a contract with every key that was ever handed out, and with scanners."""
    old = "gw_0123456789_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf0ud18D"
    assert mint("0123456789", random=lambda n: bytes(range(n)))[1] == old
    assert is_well_formed(old.encode())


def test_the_owner_of_a_key_is_found() -> None:
    principal = TABLE.find(KEY, 0.0)
    assert principal is not None
    assert (principal.id, principal.name, principal.kind, principal.grants) == ("0123456789", "alice", "key", ("iris",))


@given(position=st.integers(0, 62), character=st.characters(codec="ascii"))
def test_a_key_with_one_character_changed_is_refused_by_its_check(position: int, character: str) -> None:
    mutated = (SECRET[:position] + character + SECRET[position + 1 :]).encode()
    if mutated != KEY:
        assert not is_well_formed(mutated) or position < 3
        assert TABLE.find(mutated, 0.0) is None


@given(st.integers(0, 62), st.integers(0, 62))
def test_a_key_with_two_characters_swapped_is_refused(one: int, other: int) -> None:
    letters = list(SECRET)
    letters[one], letters[other] = letters[other], letters[one]
    mutated = "".join(letters).encode()
    assert (TABLE.find(mutated, 0.0) is None) == (mutated != KEY)


@given(st.binary(max_size=300))
@example(b"")
@example(KEY[:-1])
@example(KEY + b"0")
@example(KEY * 2)
@example(b" " + KEY)
@example(KEY + b"\n")
@example(KEY.upper())
@example(KEY.swapcase())
def test_nothing_else_is_a_key(presented: bytes) -> None:
    assert (TABLE.find(presented, 0.0) is None) == (presented != KEY)


@given(st.text(BASE62, min_size=43, max_size=43))
def test_a_well_formed_key_that_nobody_issued_is_refused(body: str) -> None:
    _, secret = mint("0123456789", random=lambda n: body.encode()[:n])
    assert is_well_formed(secret.encode())
    assert TABLE.find(secret.encode(), 0.0) is None


def test_a_key_is_valid_until_the_second_it_expires() -> None:
    table = KeyTable(PEPPER, [row(SECRET, until=1000.0)])
    assert table.find(KEY, 999.9) is not None
    assert table.find(KEY, 1000.0) is None
    assert table.find(KEY, 999.9) is not None


def test_a_table_is_of_no_use_with_another_pepper() -> None:
    other = KeyTable(Pepper.of_text("another pepper for tests"), [row(SECRET)])
    assert other.find(KEY, 0.0) is None


def test_half_of_a_digest_does_not_open() -> None:
    digest = bytearray(PEPPER.digest(KEY))
    digest[31] ^= 1
    table = KeyTable(PEPPER, [Row(bytes(digest), math.inf, "0123456789", "alice", None, {})])
    assert table.find(KEY, 0.0) is None


def test_a_key_that_fails_its_check_is_not_even_looked_up() -> None:
    mistyped = SECRET[:-1] + "!"
    assert KeyTable(PEPPER, [row(mistyped)]).find(mistyped.encode(), 0.0) is None


def test_a_foreign_key_is_found_by_all_of_it() -> None:
    table = KeyTable(PEPPER, [row("sk-0123456789abcdefghij")])
    assert table.find(b"sk-0123456789abcdefghij", 0.0) is not None
    assert table.find(b"sk-0123456789abcdefghik", 0.0) is None


@pytest.mark.parametrize("secret", ["short", "x" * 257])
def test_a_foreign_key_of_impossible_length_is_not_even_hashed(secret: str) -> None:
    assert KeyTable(PEPPER, [row(secret)]).find(secret.encode(), 0.0) is None


def test_a_table_survives_the_way_to_another_process() -> None:
    rows = [row(mint()[1], name=f"user {number}", until=float(number)) for number in range(50)] + [row(SECRET)]
    table = KeyTable(PEPPER, rows)
    copy = KeyTable.from_wire(table.to_wire())
    assert copy.find(KEY, 1e12) == table.find(KEY, 1e12) is not None
    assert len(copy) == 51
    assert copy.to_wire() == table.to_wire()


@given(st.binary(max_size=200))
def test_what_is_not_a_table_raises_value_error(wire: bytes) -> None:
    with pytest.raises(ValueError):
        KeyTable.from_wire(wire)


def test_neither_table_nor_pepper_shows_a_secret() -> None:
    shown = repr(TABLE) + repr(PEPPER) + repr(LiveKeys(TABLE))
    assert PEPPER.key.hex() not in shown
    assert SECRET[14:] not in shown
    assert "1 keys" in repr(TABLE)


def test_live_keys_change_at_once_for_whoever_holds_them() -> None:
    live = LiveKeys(TABLE)
    assert live.find(KEY, 0.0) is not None
    live.replace(EMPTY)
    assert live.find(KEY, 0.0) is None


@pytest.mark.parametrize("presented", [b"gw_", b"sk-0123456789abcdefghij", b"gw_\xff\xfe" + b"0" * 58])
def test_only_a_key_of_our_own_has_an_id(presented: bytes) -> None:
    assert key_id(presented) is None
    assert key_id(KEY) == "0123456789"


def test_the_time_of_a_look_up_tells_nothing_about_the_keys_that_exist() -> None:
    """What exists is compared by all of a MAC, in constant time; what does not is not found by a part of it. Where a
    presented key differs from a real one must not show: medians of CPU time, turn about, of the same work."""
    real = mint()[1].encode()
    digest = PEPPER.digest(real)
    near = Row(digest[:16] + bytes(16), math.inf, "0" * 10, "near", None, {})  # the index of a real key, another MAC
    first = Row(digest[:16] + digest[16:31] + bytes([digest[31] ^ 1]), math.inf, "0" * 10, "first", None, {})
    tables = {"first byte wrong": KeyTable(PEPPER, [near]), "last byte wrong": KeyTable(PEPPER, [first])}
    taken: dict[str, list[float]] = {name: [] for name in tables}
    for _ in range(60):
        for name, table in tables.items():
            began = time.thread_time_ns()
            for _ in range(200):
                assert table.find(real, 0.0) is None
            taken[name].append(time.thread_time_ns() - began)
    one, other = (median(each) for each in taken.values())
    assert 0.8 < one / other < 1.25
