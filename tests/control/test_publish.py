"""One file, replaced whole; a column of the zone for every endpoint, its own for as long as it stays."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.settings import Settings
from gateway.control import publish
from gateway.control.keys import load_keys
from gateway.control.publish import Published, TooManyEndpoints, assign_slots
from gateway.core.snapshot import ENDPOINTS
from gateway.edge import meters

URLS = st.lists(st.sampled_from([f"http://{letter}:1" for letter in "abcdefgh"]), unique=True)


@given(st.lists(URLS, min_size=1))
def test_every_endpoint_has_a_column_of_its_own_and_keeps_it_while_it_stays(generations: list[list[str]]) -> None:
    slots: dict[str, int] = {}
    for urls in generations:
        before, slots = slots, assign_slots(urls, slots)
        assert set(slots) == set(urls)
        assert len(set(slots.values())) == len(urls)
        assert all(slots[url] == before[url] for url in slots.keys() & before.keys())


def test_a_column_that_was_just_given_up_is_taken_last() -> None:
    """A request that began before may still count there."""
    before = {"http://old:1": 0, "http://stays:1": 1}
    assert assign_slots(["http://stays:1", "http://new:1"], before) == {"http://stays:1": 1, "http://new:1": 2}


def test_as_many_endpoints_as_there_are_columns_fit_and_one_more_is_refused() -> None:
    urls = [f"http://a:{port}" for port in range(ENDPOINTS)]
    full = assign_slots(urls, {})
    assert sorted(full.values()) == list(range(ENDPOINTS))
    other = [f"http://b:{port}" for port in range(ENDPOINTS)]
    assert sorted(assign_slots(other, full).values()) == list(range(ENDPOINTS))
    with pytest.raises(TooManyEndpoints, match=f"{ENDPOINTS}.*{ENDPOINTS + 1}"):
        assign_slots([*urls, "http://c:1"], {})


def test_a_url_in_several_pools_has_one_column() -> None:
    url = "http://127.0.0.1:9"
    settings = Settings.model_validate(
        {"models": {name: {"versions": {"v1": {"endpoints": [url]}}} for name in ("one", "two")}}
    )
    assert publish.urls_of(settings) == [url]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    published = Published(7, Settings().model_dump_json().encode(), "/etc", {}, {"http://a:1": 3}, b"keys", {"i": b"k"})
    publish.write(tmp_path / "new" / "folder", published)
    found = publish.read(tmp_path / "new" / "folder")
    assert found == published
    assert found.read_settings() == Settings()


def test_nobody_but_its_owner_reads_it(tmp_path: Path) -> None:
    publish.write(tmp_path, Published(1, b"{}", "/"))
    assert (tmp_path / "published").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"\xc1", msgspec.msgpack.encode({"generation": "x"})])
def test_a_file_that_is_none_is_no_generation(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "published").write_bytes(content)
    with pytest.raises(msgspec.DecodeError):
        publish.read(tmp_path)


# --- a death at any point ---------------------------------------------------------------------------------------------

WRITERS = {
    "published": """
from gateway.control import publish
generation = 0
while True:
    generation += 1
    settings = b"%d" % generation * 200_000
    publish.write(folder, publish.Published(generation, settings, "/"))
""",
    "metrics": """
from gateway.edge.meters import Recorder
recorder = Recorder(0, folder)
for number in range(2_000):
    recorder.totals.meter("model", f"v{number}")
while True:
    recorder.totals.meter("model", "v0").bytes_in += 1
    recorder.flush()
""",
    "keys": """
from gateway.control.keys import Wish, editing
number = 0
while True:
    number += 1
    with editing(folder / "keys.yaml", {}) as ring:
        ring.create(Wish(f"{os.getpid()}-{number}", ["*"]))
        print(len(ring.keys), flush=True)
""",
}


def is_published_whole(folder: Path) -> Any:
    found = publish.read(folder)
    assert found.settings == b"%d" % found.generation * 200_000
    return found.generation


def are_metrics_whole(folder: Path) -> Any:
    """A file that cannot be read is left out of the sum."""
    return meters.merge(folder).meter("model", "v0").bytes_in


def are_keys_whole(folder: Path) -> Any:
    return len(load_keys(folder / "keys.yaml", {}))


CHECKS = {"published": is_published_whole, "metrics": are_metrics_whole, "keys": are_keys_whole}


@pytest.mark.parametrize("kind", WRITERS)
def test_whoever_dies_while_writing_leaves_the_old_file_or_the_new_one(kind: str, tmp_path: Path) -> None:
    """Killed at random moments. What had been written is never lost, and the next writer is not held up."""
    code = f"import os\nfrom pathlib import Path\nfolder = Path({str(tmp_path)!r})\n{WRITERS[kind]}"
    dice, best = random.Random(1), 0
    for _ in range(6):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL) as writer:
            deadline = time.monotonic() + 20
            while not any(path.is_file() for path in tmp_path.iterdir()) or value_of(kind, tmp_path) <= best:
                assert writer.poll() is None
                assert time.monotonic() < deadline, "nothing is written"
                time.sleep(0.002)
            time.sleep(dice.uniform(0.0, 0.03))
            os.kill(writer.pid, signal.SIGKILL)
        value = CHECKS[kind](tmp_path)
        assert value > best
        best = value


def value_of(kind: str, folder: Path) -> int:
    try:
        return int(CHECKS[kind](folder))
    except FileNotFoundError:
        return 0
