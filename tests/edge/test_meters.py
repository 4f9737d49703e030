"""A worker's counts outlive it."""

import os
from pathlib import Path

import pytest

from gateway.core.metrics import Totals
from gateway.core.tally import record
from gateway.edge.meters import Recorder, clear, merge
from gateway.errors import NoEndpoint
from gateway.model import Exchange


def count(recorder: Recorder, times: int = 1) -> None:
    for _ in range(times):
        exchange = Exchange("id", 1.0, "192.0.2.1")
        exchange.status = 200
        record(recorder.totals.meter("iris", "v1"), exchange, 1.5)


def requests(totals: Totals) -> int:
    return sum(sum(meter.statuses.values()) for meter in totals.meters.values())


def test_what_all_workers_flushed_is_added_up(tmp_path: Path) -> None:
    first, second = Recorder(0, tmp_path), Recorder(1, tmp_path)
    count(first, 3)
    count(second, 4)
    assert requests(merge(tmp_path)) == 0
    first.flush()
    second.flush()
    assert requests(merge(tmp_path)) == 7


def test_counters_never_go_down_when_a_worker_is_replaced(tmp_path: Path) -> None:
    seen = [0]
    for _ in range(5):
        recorder = Recorder(0, tmp_path)  # its predecessor was killed: no close
        seen.append(requests(merge(tmp_path)))
        count(recorder, 2)
        seen.append(requests(merge(tmp_path)))
        recorder.flush()
        seen.append(requests(merge(tmp_path)))
    assert seen == sorted(seen)
    assert seen[-1] == 10


def test_what_was_in_flight_in_a_dead_worker_is_not(tmp_path: Path) -> None:
    recorder = Recorder(0, tmp_path)
    recorder.totals.in_flight, recorder.totals.connections = {"iris": 4}, 9
    recorder.flush()
    assert merge(tmp_path).in_flight == {"iris": 4}
    Recorder(0, tmp_path)
    assert merge(tmp_path).in_flight == {}
    assert merge(tmp_path).connections == 0


def test_closing_writes_the_last_counts_and_nothing_in_flight(tmp_path: Path) -> None:
    recorder = Recorder(0, tmp_path)
    recorder.before_flush(lambda totals: totals.in_flight.update(iris=1))
    count(recorder)
    recorder.close()
    assert requests(merge(tmp_path)) == 1
    assert merge(tmp_path).in_flight == {}


def test_a_new_gateway_starts_from_zero(tmp_path: Path) -> None:
    recorder = Recorder(0, tmp_path)
    count(recorder)
    recorder.close()
    clear(tmp_path)
    assert requests(merge(tmp_path)) == 0


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x80\x80", b'{"json": 1}', b"\x81\xa6errors\x01"])
def test_a_file_that_cannot_be_read_costs_its_own_counts_only(tmp_path: Path, content: bytes) -> None:
    recorder = Recorder(0, tmp_path)
    count(recorder)
    recorder.flush()
    (tmp_path / "worker-1").write_bytes(content)
    assert requests(merge(tmp_path)) == 1
    assert requests(Recorder(1, tmp_path).totals) == 0


def test_there_is_nothing_to_merge_before_the_first_worker(tmp_path: Path) -> None:
    assert merge(tmp_path / "none") == Totals()


def test_a_folder_that_went_away_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    recorder = Recorder(0, folder)
    os.rename(folder, tmp_path / "elsewhere")
    recorder.totals.count_error("iris", NoEndpoint())
    recorder.flush()
    assert merge(folder).errors == {("iris", "upstream", "no_endpoint_available"): 1}


def test_one_that_cannot_be_written_at_its_start_does_not_stop_the_worker(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    folder.write_text("no folder")
    recorder = Recorder(0, folder)
    count(recorder)
    folder.unlink()
    folder.mkdir()
    recorder.flush()
    assert requests(merge(folder)) == 1


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    recorder = Recorder(0, tmp_path)
    old = recorder.path.read_bytes()
    count(recorder)
    with open(recorder.path, "rb") as before:
        recorder.flush()
        assert before.read() == old  # whole to whoever has it open
    assert recorder.path.read_bytes() != old
    assert [path.name for path in tmp_path.iterdir()] == ["worker-0"]  # and nothing is left beside the new one
