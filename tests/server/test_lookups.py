"""The loop of the controller, with a resolver that says nothing."""

import asyncio
import contextlib
import resource
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.control.probe import Check, Prober, Target
from gateway.core.endpoint import Health
from gateway.server.lookups import Loop, widen


def test_a_name_is_looked_up_once_at_a_time_whoever_gives_up_waiting(monkeypatch: Any) -> None:
    asked = []

    async def silent(loop: Any, host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        await asyncio.sleep(60.0 if host == "slow.test" else 0.0)
        return [host, port]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(5):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await loop.getaddrinfo("slow.test", 80, type=1)
        assert asked == ["slow.test"]
        for _ in range(2):
            assert await loop.getaddrinfo("good.test", 80, type=1) == ["good.test", 80]
        assert asked == ["slow.test", "good.test", "good.test"]

    monkeypatch.setattr(Loop.__mro__[1], "getaddrinfo", silent, raising=False)
    uvloop.run(main(), loop_factory=Loop)


def test_a_lookup_that_is_over_is_forgotten() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        assert (await loop.getaddrinfo("127.0.0.1", 80))[0][4] == ("127.0.0.1", 80)
        assert loop.lookups == {}

    uvloop.run(main(), loop_factory=Loop)


@pytest.mark.parametrize(
    ("pids_max", "processes", "said", "threads"),
    [
        ("max", 3, None, "64"),
        (None, 3, None, "64"),
        ("1024", 17, None, "15"),  # with as many of a successor: a half of 1,024
        ("100", 3, None, "8"),
        ("10", 3, None, "4"),
        ("100", 3, "32", "32"),
    ],
)
def test_threads_for_lookups_are_as_many_as_the_control_group_has_room_for_unless_the_operator_says_so(
    pids_max: str | None, processes: int, said: str | None, threads: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if pids_max is not None:
        (tmp_path / "pids.max").write_text(f"{pids_max}\n")
    environ = {"UV_THREADPOOL_SIZE": said} if said else {}
    widen(processes, environ, [tmp_path / "pids.max", tmp_path / "none"])
    assert environ == {"UV_THREADPOOL_SIZE": threads}


def test_a_limit_of_the_users_processes_counts_too(monkeypatch: Any) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (120, 120))
    widen(3, environ := dict[str, str](), [])
    assert environ == {"UV_THREADPOOL_SIZE": "10"}


@pytest.mark.parametrize("kind", ["http", "tcp", "grpc"])
def test_checks_of_a_silent_name_leave_one_lookup_behind(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def silent(loop: Any, host: Any, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        await asyncio.sleep(60.0)
        return []

    async def main() -> None:
        told: list[Health] = []
        prober = Prober(lambda _, health, __: told.append(health))
        check = Check("/", interval=0.02, timeout=0.05, rise=1, fall=4, expect=frozenset(), kind=kind)
        prober.update([Target("http://slow.test:80", check)])
        async with asyncio.timeout(20):
            while Health.DOWN not in told:
                await asyncio.sleep(0.01)
        await prober.close()
        assert len(asked) == 1

    monkeypatch.setattr(Loop.__mro__[1], "getaddrinfo", silent, raising=False)
    uvloop.run(main(), loop_factory=Loop)
