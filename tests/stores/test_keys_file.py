"""keys.yaml: what is read of it, and what is said about it when it is broken."""

import itertools
import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.stores.keyentry import Key, Previous
from gateway.stores.keyfile import KeyFile, KeyFileError, parse, read
from gateway.stores.keys import KeyTable, OwnLimit, Pepper, mint

TEXT = "pepper of these tests"
PEPPER = Pepper.of_text(TEXT)
HASH = PEPPER.digest(b"sk-0123456789abcdefghij").hex()
KEY = b"sk-0123456789abcdefghij"
NOW = datetime(2026, 1, 1, tzinfo=UTC)

HEADER = f"version: 1\npepper: {TEXT}\n"
LINE = (
    f'- {{"id": "0123456789", "name": "alice", "hash": "{HASH}", '
    '"models": ["iris"], "created": "2026-01-01T00:00:00Z"}'
)
BLOCK = f"""\
- id: "0123456789"
  name: alice
  hash: {HASH}
  models: [iris]
  created: 2026-01-01T00:00:00Z"""


def load(text: str, environ: dict[str, str] | None = None) -> KeyFile:
    return parse(text, "keys.yaml", environ or {})


def problems(text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(KeyFileError) as caught:
        load(text, environ)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}keys:\n{LINE}\n",
        f"{HEADER}keys:\n{LINE}",
        f"{HEADER}keys:   # whose they are\n\n# alice\n{LINE}\n\n# the end\n",
        f"{HEADER}keys:\n{BLOCK}\n",
        f"{HEADER}keys:\n  {BLOCK.replace(chr(10), chr(10) + '  ')}\n",
        f"keys:\n{LINE}\n{HEADER}",
        f"keys:\n{BLOCK}\nversion: 1\npepper: {TEXT}\n",
        f"---\n{HEADER}keys:\n{LINE}\n",
        f"{HEADER}keys:\n- {{id: '0123456789', name: alice, hash: {HASH},\n   models: [iris], created: 2026-01-01}}\n",
    ],
    ids=["json", "no-last-newline", "comments", "block", "indented", "keys-first", "sorted", "marker", "flow"],
)
def test_a_key_is_read_from_any_usual_yaml(text: str) -> None:
    (key,) = load(text).keys
    assert (key.id, key.name, key.models, key.created) == ("0123456789", "alice", ("iris",), NOW)
    assert load(text).table().find(KEY, 0.0) is not None


def test_lines_of_both_notations_may_be_mixed() -> None:
    second = BLOCK.replace("0123456789", "abcdefghij").replace(HASH, "f" * 64)
    assert [key.id for key in load(f"{HEADER}keys:\n{LINE}\n{second}\n").keys] == ["0123456789", "abcdefghij"]


@pytest.mark.parametrize("text", [f"{HEADER}keys: []\n", f"{HEADER}keys:\n", HEADER])
def test_a_file_without_keys_has_none(text: str) -> None:
    assert len(load(text).table()) == 0


@pytest.mark.parametrize(
    ("broken", "line", "said"),
    [
        (LINE.replace('"alice"', "7"), 4, "Expected `str`, got `int` - at `$.name`"),
        (LINE.replace('"alice"', '""'), 4, "length >= 1"),
        (LINE.replace('"name"', '"nmae"'), 4, "unknown field `nmae`"),
        (LINE.replace('["iris"]', "[]"), 4, "length >= 1"),
        (LINE.replace('"models": ["iris"], ', ""), 4, "missing required field `models`"),
        (LINE.replace(HASH, HASH[:-1]), 4, "matching regex"),
        (LINE.replace("0123456789", "0123_56789"), 4, "matching regex"),
        (LINE.replace("00Z", "00"), 4, "timezone"),
        (LINE[:-1], 4, "did not find"),
        ("- nonsense", 4, "Expected `object`"),
        ("-nonsense", 4, "not an entry"),
        (LINE + "\n" + LINE, 5, "key in line 4"),
        (LINE + "\n" + LINE.replace("0123456789", "abcdefghij"), 5, "key in line 4"),
        (BLOCK + "\n  name: mallory", 4, "name twice"),
        (BLOCK.replace("alice", "*alice"), 4, "undefined alias"),
        (BLOCK.replace("alice", "!!python/name:os.system"), 4, "could not determine a constructor"),
        (LINE.replace('"alice"', '"al\\u0007ice"'), 4, "cannot be printed"),
        (LINE.replace('"iris"', '"ir\\u2028is"'), 4, "cannot be printed"),
        (LINE[:-1] + ', "limits": [{"rate": "many"}]}', 4, "'many' is not a rate"),
        (LINE[:-1] + ', "limits": [{"rate": "1/minute", "in_flight": 1}]}', 4, "either a `rate` or `in_flight`"),
        (LINE[:-1] + ', "limits": [{}]}', 4, "either a `rate` or `in_flight`"),
        (LINE[:-1] + ', "limits": [{"per": "ip", "rate": "1/minute"}]}', 4, "unknown field `per`"),
        (LINE[:-1] + ', "methods": ["get"]}', 4, "matching regex"),
    ],
)  # fmt: skip
def test_a_broken_key_is_reported_with_its_line(broken: str, line: int, said: str) -> None:
    (problem,) = problems(f"{HEADER}keys:\n{broken}\n")
    assert problem.startswith(f"keys.yaml:{line}: ")
    assert said in problem


def test_all_broken_keys_are_reported_at_once_but_not_a_thousand() -> None:
    broken = [LINE.replace('"alice"', "7"), BLOCK.replace("alice", "[]")] * 500
    found = problems(f"{HEADER}keys:\n" + "\n".join(broken))
    assert [problem.split(":")[1] for problem in found[:4]] == ["4", "5", "10", "11"]
    assert len(found) == 20


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"version: 2\npepper: {TEXT}\nkeys:\n{LINE}", "keys.yaml:1: version 2"),
        (f"{HEADER}peper: x\nkeys:\n{LINE}", "keys.yaml:1: Object contains unknown field `peper`"),
        (f"{HEADER}keys: {{}}\n", "must be a list"),
        (f"{HEADER}keys: []\n{LINE}\n", "keys.yaml:4: did not find"),
        (f"{HEADER}keys:\n{LINE}\nkeys:\n{LINE}", "must be a list"),
        ("version: [1\n" + f"keys:\n{LINE}", "keys.yaml:"),
        ("- a list\n", "must be a list"),
        (f"version: 1\nkeys:\n{LINE}", "needs `pepper`"),
        (f"pepper: short\nkeys:\n{LINE}", "fewer than 16"),
        (f"pepper: 0x1234567890123456\nkeys:\n{LINE}", "Expected `str"),
    ],
)
def test_a_broken_head_is_reported(text: str, said: str) -> None:
    (problem,) = problems(text)
    assert said in problem


def test_the_pepper_may_come_from_the_environment_alone() -> None:
    text = f"version: 1\npepper_check: '{PEPPER.check}'\nkeys:\n{LINE}"
    assert load(text, {"GATEWAY_KEYS_PEPPER": TEXT}).table().find(KEY, 0.0) is not None
    assert load(f"{HEADER}keys:\n{LINE}", {"GATEWAY_KEYS_PEPPER": ""}).table().find(KEY, 0.0) is not None


def test_a_wrong_pepper_is_an_error_and_not_a_file_whose_keys_all_fail() -> None:
    text = f"{HEADER}pepper_check: '{PEPPER.check}'\nkeys:\n{LINE}"
    (problem,) = problems(text, {"GATEWAY_KEYS_PEPPER": "another pepper than that"})
    assert "GATEWAY_KEYS_PEPPER is not the one" in problem


def test_a_file_that_is_not_text_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(KeyFileError, match=r"keys.yaml:1: is not UTF-8"):
        read(path, {})


def key(**fields: object) -> Key:
    return msgspec.structs.replace(
        Key(id="0123456789", name="alice", hash=HASH, models=("iris",), created=NOW), **fields
    )


def test_a_key_without_a_star_is_granted_what_it_names() -> None:
    assert [row.grants for row in key(models=("iris", "llama@fp8")).rows()] == [("iris", "llama@fp8")]
    assert [row.grants for row in key(models=("iris", "*")).rows()] == [None]


def test_a_revoked_key_is_not_in_the_table_and_a_rotated_one_is_twice() -> None:
    soon = NOW + timedelta(hours=1)
    assert list(key(revoked=NOW).rows()) == []
    rotated = key(previous=(Previous("0" * 64, soon),), expires=NOW + timedelta(days=1))
    assert [row.until - NOW.timestamp() for row in rotated.rows()] == [86400, 3600]
    sooner = key(previous=(Previous("0" * 64, NOW + timedelta(days=9)),), expires=NOW + timedelta(days=1))
    assert [row.until - NOW.timestamp() for row in sooner.rows()] == [86400, 86400]


def test_a_key_says_its_state() -> None:
    now = NOW.timestamp()
    later, earlier = NOW + timedelta(hours=1), NOW - timedelta(hours=1)
    assert key().state(now) == "active"
    assert key(expires=later).state(now) == "active"
    assert key(expires=NOW).state(now) == "expired"
    assert key(expires=earlier, revoked=NOW).state(now) == "revoked"
    assert key(previous=(Previous("0" * 64, later),)).state(now) == "rotating"
    assert key(previous=(Previous("0" * 64, earlier),)).state(now) == "active"


printable = st.text(st.characters(categories="LMNPS", include_characters=" "), min_size=1, max_size=20)
moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(
    lambda moment: moment.replace(microsecond=0)
)


LIMITS = [OwnLimit(rate="100/minute", burst=20), OwnLimit(rate="5/hour", unit="tokens"), OwnLimit(in_flight=3)]


@st.composite
def key_files(draw: st.DrawFn) -> KeyFile:
    names = draw(st.lists(printable, max_size=5))
    ids = (f"{number:010d}" for number in itertools.count())
    keys = [
        Key(
            id=next(ids),
            name=name,
            hash=PEPPER.digest(f"{name}{number}".encode()).hex(),
            models=tuple(draw(st.lists(printable, min_size=1, max_size=3))),
            created=draw(moments),
            owner=draw(st.just("") | printable),
            expires=draw(st.none() | moments),
            revoked=draw(st.none() | moments),
            previous=tuple(Previous(f"{number:064x}", draw(moments)) for _ in range(draw(st.integers(0, 1)))),
            metadata=draw(st.dictionaries(printable, printable, max_size=2)),
            limits=tuple(draw(st.lists(st.sampled_from(LIMITS), max_size=2))),
            methods=tuple(draw(st.lists(st.sampled_from(["GET", "POST"]), max_size=2))),
        )
        for number, name in enumerate(names)
    ]
    return KeyFile(PEPPER, TEXT, keys)


@settings(max_examples=40, deadline=None)
@given(key_files())
def test_what_is_written_is_read_back_by_us_and_by_any_yaml_reader(file: KeyFile) -> None:
    text = file.render()
    assert load(text).keys == list(file.keys)
    document = yaml.safe_load(text)
    assert document["pepper"] == TEXT
    assert [entry["name"] for entry in document["keys"]] == [key.name for key in file.keys]
    assert [entry["models"] for entry in document["keys"]] == [list(key.models) for key in file.keys]


@settings(max_examples=60, deadline=None)
@given(key_files(), st.data())
def test_no_damage_to_a_file_is_anything_but_a_key_file_error(file: KeyFile, data: st.DataObject) -> None:
    text = file.render()
    at = data.draw(st.integers(0, len(text)))
    damage = data.draw(st.text(max_size=3))
    damaged = text[:at] + damage + text[at + data.draw(st.integers(0, 3)) :]
    assert outcome(damaged).startswith(("keys.yaml:", "<KeyFile of "))


def outcome(text: str) -> str:
    try:
        return repr(load(text))
    except KeyFileError as error:
        return str(error)


def test_a_key_is_one_line_so_that_a_change_is_one_line_of_a_diff() -> None:
    lines = KeyFile(PEPPER, TEXT, [key(), key(id="abcdefghij", hash="0" * 64)]).render().splitlines()
    assert [json.loads(line[2:])["id"] for line in lines if line.startswith("- ")] == ["0123456789", "abcdefghij"]


def test_a_hundred_thousand_keys_load_in_two_seconds_of_work_and_reach_a_worker_in_a_fraction() -> None:
    rate = OwnLimit(rate="100/minute")
    keys = [
        Key(id=f"{n:010d}", name=f"user {n}", hash=f"{n:032x}" * 2, models=("iris",), created=NOW, limits=(rate,))
        for n in range(100_000)
    ]
    text = KeyFile(PEPPER, TEXT, keys).render()
    tracer = sys.gettrace()
    sys.settrace(None)  # what a measure of coverage costs is not meant
    began = time.process_time()
    table = load(text).table()
    loaded = time.process_time()
    again = KeyTable.from_wire(table.to_wire())
    taken = time.process_time()
    sys.settrace(tracer)
    assert len(again) == 100_000
    assert loaded - began < 2, "in the controller"
    assert taken - loaded < 1, "in a worker"


def test_what_the_model_server_is_told_of_a_key_is_what_its_entry_says() -> None:
    secret = mint()[1]
    entry = key(
        hash=PEPPER.digest(secret.encode()).hex(), owner="team a", metadata={"tier": "gold", "id": "x", "odd": " x"}
    )
    told = {"id": "x-id", "name": "x-user", "owner": "x-team", "tier": "x-tier", "odd": "x-odd", "absent": "x-absent"}
    table = KeyTable.from_wire(KeyFile(PEPPER, TEXT, [entry]).table().to_wire(), told)
    principal = table.find(secret.encode(), NOW.timestamp())
    assert principal is not None
    assert principal.headers == (
        (b"x-id", b"0123456789"), (b"x-user", b"alice"), (b"x-team", b"team a"), (b"x-tier", b"gold"),
    )  # fmt: skip
