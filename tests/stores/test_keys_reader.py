"""Keys that are read again and again: what was read before makes it quicker and never other."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from gateway.control.keys import Wish, editing
from gateway.stores import keyreader
from gateway.stores.keyfile import KeyFileError, parse
from gateway.stores.keyreader import KeyReader
from gateway.stores.keys import KeyTable

NAMES = ["alice", "bob", "carol", "dave", "eve", "frank", "grace"]


class File:
    """A key file, its lines, and the keys that it was made of."""

    def __init__(self, path: Path) -> None:
        with editing(path, {}) as ring:
            self.keys = {name: ring.create(Wish(name, ["*"]))[1] for name in NAMES}
        lines = path.read_text().rstrip("\n").split("\n")
        start = lines.index("keys:") + 1
        self.head, self.lines = lines[:start], lines[start:]

    def text(self, lines: list[str]) -> str:
        return "\n".join([*self.head, *lines]) + "\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> File:
    """Its parts are of two or three lines."""
    file = File(tmp_path / "keys.yaml")
    monkeypatch.setattr(keyreader, "_BREAKS", frozenset(file.lines[at][keyreader._ID] for at in (2, 5)))
    return file


def renamed(line: str) -> str:
    """The line of another key."""
    key_id, digest = line.split('"id": "')[1][:10], line.split('"hash": "')[1][:64]
    other = ("0" if digest[0] != "0" else "1") + digest[1:]
    return line.replace(key_id, key_id[:-2] + "zz").replace(digest, other).replace('"name": "', '"name": "new-')


Edit = Callable[[list[str]], list[str]]
EDITS: dict[str, Edit] = {
    "nothing": lambda lines: lines,
    "the first is gone": lambda lines: lines[1:],
    "the last is gone": lambda lines: lines[:-1],
    "one in the middle is gone": lambda lines: lines[:2] + lines[3:],
    "all but one are gone": lambda lines: lines[2:3],
    "all are gone": lambda lines: [],
    "one is new, first": lambda lines: [renamed(lines[0]), *lines],
    "one is new, last": lambda lines: [*lines, renamed(lines[0])],
    "one has changed": lambda lines: [*lines[:2], lines[2].replace('"carol"', '"carla"'), *lines[3:]],
    "one is revoked": lambda lines: [lines[0][:-1] + ', "revoked": "2020-01-01T00:00:00Z"}', *lines[1:]],
    "two have changed places": lambda lines: [lines[1], lines[0], *lines[2:]],
    "the order is reversed": lambda lines: lines[::-1],
    "one is in YAML": lambda lines: [*lines[:2], lines[2].replace('"name"', "name"), *lines[3:]],
    "a comment is there": lambda lines: [lines[0], "# of the red team", *lines[1:]],
    "an empty line is there": lambda lines: [lines[0], "", *lines[1:]],
    "one has several lines": lambda lines: [*lines[:2], lines[2].replace(', "name"', ',\n   "name"'), *lines[3:]],
}


def known(table: KeyTable, file: File) -> dict[str, str | None]:
    """Whom the table knows, and by which names."""
    found = {name: table.find(key.encode(), 0.0) for name, key in file.keys.items()}
    return {name: principal.name if principal else None for name, principal in found.items()}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_read_again_keys_are_what_they_are_to_one_who_reads_them_first(file: File, edit: Edit) -> None:
    reader = KeyReader({})
    first = reader.take(file.text(file.lines), "keys.yaml")
    before = KeyTable.from_wire(first)
    for lines in (edit(file.lines), file.lines, edit(file.lines)):
        wire = reader.take(file.text(lines), "keys.yaml")
        truth = parse(file.text(lines), "keys.yaml", {}).table()
        table = finish(wire, (before, first))
        assert known(table, file) == known(KeyTable.from_wire(wire), file) == known(truth, file)
        assert len(table) == len(truth)
        before, first = table, wire


def finish(wire: bytes, before: tuple[KeyTable, bytes]) -> KeyTable:
    work = KeyTable.reading(wire, None, before)
    while True:
        try:
            next(work)
        except StopIteration as end:
            return cast(KeyTable, end.value)


def test_mistakes_are_told_as_to_one_who_reads_them_first(file: File) -> None:
    lines = file.lines
    twin = [*lines[:4], lines[1], *lines[4:]]
    spread = lines[3].replace("}", ', "limits": [{"in_flight": 1}'), '- {"in_flight": 2}]}'
    for wrong in (twin, [*lines, lines[0]], [lines[0][:-5], *lines[1:]], [*spread, *lines[:3]]):
        reader = KeyReader({})
        reader.take(file.text(lines), "k")
        with pytest.raises(KeyFileError) as first:
            parse(file.text(wrong), "k", {})
        with pytest.raises(KeyFileError) as again:
            reader.take(file.text(wrong), "k")
        assert str(again.value) == str(first.value)
        assert len(KeyTable.from_wire(reader.take(file.text(lines[1:]), "k"))) == len(lines) - 1
    with pytest.raises(KeyFileError, match=r"^k:10: has the id or the hash of the key in line 7$"):
        KeyReader({}).take(file.text(twin), "k")


def test_a_key_that_comes_changes_one_part_and_the_worker_reads_no_other(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = KeyReader({})
    first = reader.take(file.text(file.lines), "k")
    before = KeyTable.from_wire(first)
    read: list[int] = []
    plain = keyreader._read
    monkeypatch.setattr(keyreader, "_read", lambda lines: read.append(len(lines)) or plain(lines))
    wire = reader.take(file.text([file.lines[0], renamed(file.lines[1]), *file.lines[1:]]), "k")
    assert read == [3]
    after = finish(wire, (before, first))
    assert after._rows.keys() - before._rows.keys() != set()
    assert all(after._rows[at] is row for at, row in before._rows.items() if row.name in NAMES[2:])


def test_another_pepper_is_another_table(file: File) -> None:
    reader = KeyReader({"GATEWAY_KEYS_PEPPER": "p" * 40})
    head = [line for line in file.head if not line.startswith("pepper")]
    first = KeyReader({"GATEWAY_KEYS_PEPPER": "q" * 40}).take("\n".join([*head, *file.lines]), "k")
    second = reader.take("\n".join([*head, *file.lines]), "k")
    table = finish(second, (KeyTable.from_wire(first), first))
    assert table.to_wire() == KeyTable.from_wire(second).to_wire()


def test_the_same_text_is_not_read_at_all(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = KeyReader({})
    wire = reader.take(file.text(file.lines), "k")
    monkeypatch.setattr(keyreader, "divide", None)
    assert reader.take(file.text(file.lines), "k") is wire


def test_parts_are_bounded_where_ids_do_not_end_them(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyreader, "_BREAKS", frozenset[str]())
    monkeypatch.setattr(keyreader, "_LONGEST_PART", 3)
    reader = KeyReader({})
    assert len(KeyTable.from_wire(reader.take(file.text(file.lines), "k"))) == 7
    assert repr(reader) == "<KeyReader of 7 lines in 3 parts>"
