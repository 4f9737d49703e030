"""What is measured of processes, held against processes whose work is known."""

import sys
import time
from pathlib import Path

import pytest

from bench.processes import Failed, Running, cpu_seconds, ended, tree

BURN = "import time\nwhile time.process_time() < {seconds}: pass\n"
PARENT = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', sys.argv[1]])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(60)\n"
)


def until(check):
    deadline = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_child_that_ended_still_counts(tmp_path):
    code = PARENT.replace("print(", "child.wait(); print(")
    with ended(Running("parent", [sys.executable, "-c", code, BURN.format(seconds=0.3)], tmp_path)) as it:
        until((tmp_path / "stdout").read_text)
        assert it.cpu() >= 0.2


def test_the_cpu_of_a_tree_is_that_of_all_its_processes(tmp_path):
    code = BURN.format(seconds=0.3) + "time.sleep(60)\n"
    with ended(Running("parent", [sys.executable, "-c", PARENT, code], tmp_path)) as it:
        until((tmp_path / "stdout").read_text)
        child = int((tmp_path / "stdout").read_text())
        assert tree(it.pid) == [it.pid, child]
        until(lambda: cpu_seconds(child) >= 0.2)
        assert it.cpu() == pytest.approx(cpu_seconds(it.pid) + cpu_seconds(child), abs=0.05)


def test_stopping_ends_the_children_too(tmp_path):
    with ended(Running("parent", [sys.executable, "-c", PARENT, "import time; time.sleep(60)"], tmp_path)):
        until((tmp_path / "stdout").read_text)
        child = int((tmp_path / "stdout").read_text())
    until(lambda: is_gone(child))


def is_gone(pid):
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_memory_that_a_process_takes_is_seen(tmp_path):
    code = "taken = bytearray(32 * 2**20); print(1, flush=True); import time; time.sleep(60)"
    with ended(Running("taker", [sys.executable, "-c", code], tmp_path)) as it:
        until((tmp_path / "stdout").read_text)
        proportional, resident = it.memory()
    assert 32 * 1024 <= proportional <= resident <= 100 * 1024


def test_a_process_that_ends_by_itself_is_reported_with_its_last_words(tmp_path):
    with (
        ended(Running("it", [sys.executable, "-c", "raise SystemExit('no port left')"], tmp_path)) as it,
        pytest.raises(Failed, match="it ended with 1: no port left"),
    ):
        it.wait_for_port(9)
