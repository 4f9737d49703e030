"""The access log: what a line says, that none can be forged, and that nothing waits for it."""

import asyncio
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.metrics import Totals
from gateway.edge import journal as module
from gateway.edge.journal import BATCH_LINES, Journal
from gateway.edge.line import ATOMIC_BYTES, Line, render
from gateway.errors import UpstreamTimeout
from gateway.model import Exchange, Principal

LINE = Line(
    time="2026-01-02T03:04:05.678Z",
    request_id="abc-1",
    client="192.0.2.1",
    principal="key_1",
    principal_name="ci",
    method="POST",
    path="/v1/chat/completions",
    host="gw.example.com",
    model="iris",
    version="v1",
    endpoint="http://127.0.0.1:9001",
    attempts=1,
    status=200,
    bytes_in=10,
    bytes_out=20,
    first_byte_ms=1.5,
    total_ms=2.5,
    error_owner=None,
    error_code=None,
    queued_ms=None,
    fallback_from=None,
    user_agent="curl/8",
)
# Bytes that end a line, or act on a terminal, for one reader or another.
ENDINGS = [
    b"\n", b"\r", b"\r\n", b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e", b"\x85", b"\xc2\x85", "\u2028".encode(),
    "\u2029".encode(), b"\0", b"\x7f", b"\x1b[2K\x1b[1A", b"\x9b2K", "\u202e".encode(), b"\xff\xfe", b'"}\n{"a":"',
    b'\\"}\n{', b"\\", b"\\n",
]  # fmt: skip


def exchange(**changes: Any) -> Exchange:
    made = Exchange("abc-1", 100.0, "192.0.2.1")
    made.status = 200
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def scope(path: bytes = b"/", *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "raw_path": path, "headers": list(headers)}


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)


def log(path: str, *records: tuple[dict[str, Any], Exchange], wall: float = 0.0) -> Journal:
    async def main() -> Journal:
        journal = Journal(path, wall=lambda: wall)
        for given_scope, given_exchange in records:
            given_exchange.fields = dict(given_scope["headers"])
            journal.record(given_scope, given_exchange, 0.0123456)
        journal.close()
        return journal

    return asyncio.run(main())


def test_a_line_says_who_asked_what_of_whom_and_how_it_ended(tmp_path: Path) -> None:
    finished = exchange(
        principal=Principal("key_7", "ci", "key"),
        route=SimpleNamespace(name="iris"),
        pool=SimpleNamespace(version="v2"),
        endpoint=SimpleNamespace(url="http://127.0.0.1:9001"),
        attempts=2,
        status=504,
        bytes_in=11,
        bytes_out=22,
        first_byte=100.0042,
        error=UpstreamTimeout(),
    )
    headers = [(b"accept", b"*/*"), (b"user-agent", b"curl/8"), (b"host", b"gw.example.com:8443")]
    log(str(tmp_path / "log"), (scope(b"/models/iris/x?api_key=secret", *headers), finished), wall=1767323045.6789)
    assert lines_of(tmp_path / "log") == [
        {
            "time": "2026-01-02T03:04:05.678Z",
            "request_id": "abc-1",
            "client": "192.0.2.1",
            "principal": "key_7",
            "principal_name": "ci",
            "method": "GET",
            "path": "/models/iris/x",
            "host": "gw.example.com:8443",
            "model": "iris",
            "version": "v2",
            "endpoint": "http://127.0.0.1:9001",
            "attempts": 2,
            "status": 504,
            "bytes_in": 11,
            "bytes_out": 22,
            "first_byte_ms": pytest.approx(4.2, abs=0.002),
            "total_ms": 12.345,
            "error_owner": "upstream",
            "error_code": "upstream_timeout",
            "queued_ms": None,
            "fallback_from": None,
            "user_agent": "curl/8",
        }
    ]


def test_a_request_that_nothing_is_known_of_has_a_line_with_the_same_fields(tmp_path: Path) -> None:
    log(str(tmp_path / "log"), (scope(), exchange()))
    (line,) = lines_of(tmp_path / "log")
    assert list(line) == list(Line.__struct_fields__)
    assert line["model"] is line["version"] is line["endpoint"] is line["first_byte_ms"] is line["error_code"] is None


def test_no_query_reaches_the_log(tmp_path: Path) -> None:
    log(str(tmp_path / "log"), (scope(b"/a?key=SECRET?x"), exchange()), (scope(b"?SECRET"), exchange()))
    assert "SECRET" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("field", ["path", "host", "user-agent", "principal"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_no_line_can_be_forged(tmp_path: Path, field: str, ending: bytes) -> None:
    forged = b"x" + ending + b'{"status":200,"request_id":"forged"}' + ending
    text = forged.decode("utf-8", "surrogateescape")
    given_scope = scope(
        forged if field == "path" else b"/",
        (b"host", forged if field == "host" else b"h"),
        (b"user-agent", forged if field == "user-agent" else b"a"),
    )
    principal = Principal(text, text, "jwt") if field == "principal" else Principal("p", "p", "key")
    log(str(tmp_path / "log"), (given_scope, exchange(principal=principal)), (scope(b"/next"), exchange()))
    raw = (tmp_path / "log").read_bytes()
    assert raw.count(b"\n") == 2
    assert raw.endswith(b"}\n")
    assert all(0x20 <= byte < 0x7F for byte in raw.replace(b"\n", b""))
    first, second = (json.loads(line) for line in raw.splitlines())
    assert (first["request_id"], second["path"]) == ("abc-1", "/next")
    logged = {"path": first["path"], "host": first["host"], "user-agent": first["user_agent"]}
    expected = text if field == "principal" else forged.partition(b"?")[0].decode("latin-1")
    assert logged.get(field, first["principal"]) == expected


WORDS = st.text(st.characters(codec=None), max_size=300) | st.text("\\\"'/", max_size=300)


@example([("\N{GRINNING FACE}" * 300,) * 5])
@given(st.lists(st.tuples(WORDS, WORDS, WORDS, WORDS, WORDS), min_size=1, max_size=5))
def test_whatever_the_words_a_line_is_printable_ascii_and_bounded(words: list[tuple[str, ...]]) -> None:
    fields = ("principal", "principal_name", "path", "host", "user_agent")
    lines = [msgspec.structs.replace(LINE, **dict(zip(fields, row, strict=True))) for row in words]
    rendered = render(lines).split(b"\n")
    assert rendered.pop() == b""
    assert len(rendered) == len(lines)
    for line, text in zip(lines, rendered, strict=True):
        assert len(text) < ATOMIC_BYTES
        assert text.isascii()
        assert text.decode().isprintable()
        assert json.loads(text)["status"] == line.status


def test_the_longest_words_a_client_can_send_fit_into_one_atomic_write(tmp_path: Path) -> None:
    worst = Principal("\\" * 9999, "\\" * 9999, "jwt")
    given_scope = scope(b"/" + b'"' * 9999, (b"host", b'"' * 9999), (b"user-agent", b"\\" * 9999))
    log(str(tmp_path / "log"), (given_scope, exchange(request_id="x" * 128, principal=worst)))
    assert 3000 < (tmp_path / "log").stat().st_size < ATOMIC_BYTES


def test_lines_are_written_soon_without_being_asked_for(tmp_path: Path) -> None:
    async def main() -> float:
        journal = Journal(str(tmp_path / "log"))
        began = time.monotonic()
        journal.record(scope(), exchange(), 0.1)
        while not (tmp_path / "log").stat().st_size:
            await asyncio.sleep(0.005)
        return time.monotonic() - began

    assert asyncio.run(asyncio.wait_for(main(), 10)) >= 0.09


def test_many_lines_are_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    write = os.write

    def spy(fd: int, data: bytes) -> int:
        sizes.append(data.count(b"\n"))
        return write(fd, data)

    monkeypatch.setattr(module.os, "write", spy)
    log(str(tmp_path / "log"), *[(scope(), exchange())] * (2 * BATCH_LINES + 5))
    assert sizes == [BATCH_LINES, BATCH_LINES, 5]


def test_two_journals_append_to_one_file(tmp_path: Path) -> None:
    async def main() -> None:
        journals = [Journal(str(tmp_path / "log")) for _ in range(2)]
        for number in range(1000):
            journals[number % 2].record(scope(b"/%d" % number), exchange(), 0.1)
        for journal in journals:
            journal.close()

    asyncio.run(main())
    assert {line["path"] for line in lines_of(tmp_path / "log")} == {f"/{number}" for number in range(1000)}


def write_now(journal: Journal, path: bytes) -> None:
    journal.record(scope(path), exchange(), 0.1)
    journal.flush()
    wait_until(lambda: journal._writer.written == journal._handed)


def test_after_a_rotation_lines_go_to_a_new_file_of_the_old_name(tmp_path: Path) -> None:
    async def main() -> None:
        journal = Journal(str(tmp_path / "log"))
        write_now(journal, b"/before")
        os.rename(tmp_path / "log", tmp_path / "log.1")
        write_now(journal, b"/after")
        write_now(journal, b"/again")
        journal.close()

    asyncio.run(main())
    assert [line["path"] for line in lines_of(tmp_path / "log.1")] == ["/before"]
    assert [line["path"] for line in lines_of(tmp_path / "log")] == ["/after", "/again"]


def test_a_file_that_was_emptied_is_written_on_from_its_start(tmp_path: Path) -> None:
    async def main() -> None:
        journal = Journal(str(tmp_path / "log"))
        write_now(journal, b"/before")
        os.truncate(tmp_path / "log", 0)
        write_now(journal, b"/after")
        journal.close()

    asyncio.run(main())
    assert [line["path"] for line in lines_of(tmp_path / "log")] == ["/after"]


def test_a_rotation_that_fails_loses_no_line_and_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()

    async def main() -> None:
        journal = Journal(str(folder / "log"))
        os.rename(folder, tmp_path / "gone")
        write_now(journal, b"/after")
        write_now(journal, b"/again")
        folder.mkdir()
        write_now(journal, b"/new")
        journal.close()

    asyncio.run(main())
    assert [line["path"] for line in lines_of(tmp_path / "gone" / "log")] == ["/after", "/again"]
    assert [line["path"] for line in lines_of(folder / "log")] == ["/new"]
    assert [record.message for record in caplog.records if "old file" in record.message] == [caplog.messages[0]]


def test_a_log_that_cannot_be_opened_yet_takes_what_comes_when_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that takes a dead one's place must not fail for a disk that has filled meanwhile."""
    folder = tmp_path / "logs"

    async def main() -> None:
        journal = Journal(str(folder / "log"))
        write_now(journal, b"/lost")
        write_now(journal, b"/lost")
        assert journal.dropped == 2
        folder.mkdir()
        write_now(journal, b"/new")
        journal.close()

    asyncio.run(main())
    assert [line["path"] for line in lines_of(folder / "log")] == ["/new"]
    assert [message for message in caplog.messages if "cannot be opened" in message] == caplog.messages[:1]


def test_a_named_pipe_that_nobody_reads_yet_holds_up_no_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    async def main() -> None:
        journal = Journal(str(tmp_path / "pipe"))
        write_now(journal, b"/lost")
        assert journal.dropped == 1
        reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        write_now(journal, b"/heard")
        assert json.loads(os.read(reader, 65536))["path"] == "/heard"
        os.close(reader)
        journal.close()

    asyncio.run(asyncio.wait_for(main(), 10))


@contextlib.contextmanager
def pipe_as_log(tmp_path: Path):
    """A named pipe somebody reads from, slowly: what standard output is in a container."""
    name = tmp_path / "pipe"
    os.mkfifo(name)
    reader = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield str(name), reader
    finally:
        os.close(reader)


def read_all(fd: int, until: Callable[[bytes], bool]) -> bytes:
    data = b""
    deadline = time.monotonic() + 10
    while not until(data):
        assert time.monotonic() < deadline, "nothing more came"
        try:
            data += os.read(fd, 65536)
        except BlockingIOError:
            time.sleep(0.001)
    return data


def test_a_blocked_pipe_stops_nobody_and_what_does_not_fit_is_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING_BYTES", 200_000)
    count = 5000

    async def main(path: str, reader: int) -> tuple[Totals, bytes]:
        journal, totals = Journal(path), Totals()
        began = time.monotonic()
        for _ in range(count):
            journal.record(scope(), exchange(), 0.1)
        journal.close(timeout=0.05)
        assert time.monotonic() - began < 5
        journal.report(totals)
        journal.report(totals)
        kept = count - totals.lines_dropped
        return totals, read_all(reader, lambda data: data.count(b"\n") >= kept)

    with pipe_as_log(tmp_path) as (path, reader):
        totals, data = asyncio.run(main(path, reader))
    assert 0 < totals.lines_dropped < count
    assert data.count(b"\n") == count - totals.lines_dropped
    assert all(json.loads(line)["status"] == 200 for line in data.splitlines())


def test_no_write_to_a_pipe_is_larger_than_what_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    write = os.write
    monkeypatch.setattr(module.os, "write", lambda fd, data: written.append(data) or write(fd, data))
    with pipe_as_log(tmp_path) as (path, _):
        log(path, *[(scope(b"/" + b"x" * size), exchange()) for size in range(0, 900, 18)])
    assert sum(data.count(b"\n") for data in written) == 50
    assert all(len(data) <= ATOMIC_BYTES and data.endswith(b"\n") for data in written)
    assert len(written) < 15


def test_a_line_longer_than_that_is_still_written_whole(tmp_path: Path) -> None:
    route = SimpleNamespace(name="m" * 2 * ATOMIC_BYTES)
    with pipe_as_log(tmp_path) as (path, reader):
        log(path, *[(scope(), exchange(route=each)) for each in (None, route, None)])
        data = read_all(reader, lambda data: data.count(b"\n") == 3)
    assert [len(json.loads(line)["model"] or "") for line in data.splitlines()] == [0, 2 * ATOMIC_BYTES, 0]


def test_a_dash_is_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    log("-", (scope(b"/a"), exchange()))
    log("-", (scope(b"/b"), exchange()))  # which stays open
    assert [json.loads(line)["path"] for line in capfd.readouterr().out.splitlines()] == ["/a", "/b"]


def test_lines_are_lost_and_counted_when_the_reader_is_gone(tmp_path: Path) -> None:
    with pipe_as_log(tmp_path) as (path, reader):

        async def main() -> Journal:
            journal = Journal(path)
            os.dup2(os.open(os.devnull, os.O_RDONLY), reader)
            journal.record(scope(), exchange(), 0.1)
            journal.record(scope(), exchange(), 0.1)
            journal.close()
            return journal

        assert asyncio.run(main()).dropped == 2


def test_lines_are_lost_and_counted_while_no_thread_is_to_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> Journal:
        journal = Journal(str(tmp_path / "log"))
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refused)
            journal.record(scope(), exchange(), 0.1)
            journal.flush()
        journal.record(scope(b"/later"), exchange(), 0.1)
        journal.close()
        return journal

    assert asyncio.run(main()).dropped == 1
    assert [line["path"] for line in lines_of(tmp_path / "log")] == ["/later"]


def test_a_line_that_was_cut_by_a_full_disk_does_not_swallow_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    room = [700]  # bytes until the disk is full
    refusals = [True, True]  # what it answers then, before there is room again

    def full(fd: int, data: bytes) -> int:
        if room[0] <= 0 and refusals:
            refusals.pop()
            raise OSError(28, "No space left on device")
        done = write(fd, data[: room[0]] if refusals else data)
        room[0] -= done
        return done

    async def main() -> Journal:
        journal = Journal(str(tmp_path / "log"))
        for number in range(4):
            journal.record(scope(b"/%d" % number), exchange(), 0.1)
        journal.flush()
        journal.record(scope(b"/4"), exchange(), 0.1)
        journal.flush()
        journal.record(scope(b"/after"), exchange(), 0.1)
        journal.close()
        return journal

    monkeypatch.setattr(module.os, "write", full)
    journal = asyncio.run(main())
    whole = [json.loads(line) for line in (tmp_path / "log").read_bytes().splitlines() if line.endswith(b"}")]
    assert [line["path"] for line in whole] == ["/0", "/after"]
    assert journal.dropped == 4


def test_a_pipe_that_somebody_else_made_non_blocking_is_waited_for(tmp_path: Path) -> None:
    with pipe_as_log(tmp_path) as (path, reader):

        async def main() -> bytes:
            journal = Journal(path)
            os.set_blocking(journal._writer._fd, False)
            for _ in range(1000):
                journal.record(scope(), exchange(), 0.1)
            journal.flush()
            data = read_all(reader, lambda data: data.count(b"\n") == 1000)
            journal.close()
            assert journal.dropped == 0
            return data

        assert all(json.loads(line) for line in asyncio.run(main()).splitlines())


def test_the_journal_says_what_it_holds(tmp_path: Path) -> None:
    async def main() -> str:
        journal = Journal(str(tmp_path / "log"))
        journal.record(scope(), exchange(), 0.1)
        said = repr(journal)
        journal.close()
        return said

    assert asyncio.run(main()) == f"<Journal {tmp_path}/log gathered=1 waiting=0 dropped=0>"
