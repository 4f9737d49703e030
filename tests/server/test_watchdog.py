"""Where a loop stands that does not turn."""

import logging
import sys
import threading
import time
from types import FrameType, ModuleType
from typing import Any

import pytest

from gateway.server.watchdog import Watchdog, blamed_for


def module(name: str, source: str) -> Any:
    found = ModuleType(name)
    exec(source, vars(found))
    return found


CATCHING = """
import sys
class Blocks:
    def call(self):
        return sys._getframe()
class Waits:
    def call(self, app):
        return app()
def make(app):
    def layer():
        return app()
    return layer
"""
SLOW = module("plugins.slow", CATCHING)
OURS = module("gateway.edge.ours", CATCHING)
OTHER = module("somebody.else", CATCHING)


def frame_of(call: Any) -> FrameType:
    found: FrameType = call()
    return found


@pytest.mark.parametrize(
    ("call", "blamed"),
    [
        (SLOW.Blocks().call, "plugins.slow.Blocks"),
        (lambda: SLOW.Waits().call(OTHER.Blocks().call), "plugins.slow.Waits"),
        (SLOW.make(OTHER.Blocks().call), "plugins.slow.make"),
        (lambda: SLOW.Waits().call(OURS.Blocks().call), ""),
        (lambda: OURS.Waits().call(SLOW.Blocks().call), "plugins.slow.Blocks"),
        (OTHER.Blocks().call, ""),
    ],
)
def test_a_plugin_is_blamed_for_its_own_code_and_what_that_calls(call: Any, blamed: str) -> None:
    frames: list[str] = []
    # In a thread of its own: here, pytest's frames are around it.
    thread = threading.Thread(target=lambda: frames.append(blamed_for(frame_of(call))))
    thread.start()
    thread.join()
    assert frames == [blamed]


def test_it_says_so_once_each_time_and_the_loop_is_told_whom_it_was_held_up_by(caplog: Any) -> None:
    dog = Watchdog(2.0, None)
    start = dog.ticked
    with caplog.at_level(logging.WARNING):
        for seconds in (1.9, 2.1, 3.0):
            dog.look(start + seconds)
        assert dog.tick(start + 4.0) == ""
        assert dog.tick(start + 4.1) is None
        dog.look(start + 6.2)
    told = [record.getMessage() for record in caplog.records]
    assert [line.split("\n")[0] for line in told] == [
        "the loop has stood still for 2.1 s; it stands in",
        "the loop turns again, after 4.0 s",
        "the loop has stood still for 2.1 s; it stands in",
    ]
    assert "test_it_says_so_once" in told[0]


def test_nothing_is_watched_where_nothing_is_to_be_said() -> None:
    before = threading.active_count()
    Watchdog(0.0, None).start()
    assert threading.active_count() == before


def test_it_looks_from_a_thread_of_its_own(caplog: Any) -> None:
    dog = Watchdog(0.01, None)
    with caplog.at_level(logging.ERROR):
        dog.start()
        deadline = time.monotonic() + 10
        while "test_it_looks_from" not in caplog.text and time.monotonic() < deadline:
            sum(range(1000))
    dog.stall = sys.maxsize
    assert "test_it_looks_from_a_thread_of_its_own" in caplog.text
