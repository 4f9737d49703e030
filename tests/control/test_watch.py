"""What counts as a change of files, and that none is missed."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateway.control import watch
from gateway.control.watch import Watcher, stamp


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(watch, "_SETTLE_SECONDS", 0.01)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "routes.yaml"
    file.write_text("one")
    return file


async def watching(paths: list[Path], scene: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    """Watch `paths` while `scene` plays; -> how often something changed. The event is set with every change."""
    calls = 0
    changed = asyncio.Event()

    async def on_change() -> None:
        nonlocal calls
        calls += 1
        changed.set()

    watcher = Watcher(lambda: paths, on_change)
    await watcher.mark()
    task = asyncio.create_task(watcher.run())
    await scene(changed)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return calls


def test_nothing_is_told_while_nothing_changes(file: Path) -> None:
    async def scene(changed: asyncio.Event) -> None:
        await asyncio.sleep(0.1)

    assert asyncio.run(watching([file], scene)) == 0


def replaced(file: Path) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text("one")
    os.utime(fresh, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    fresh.replace(file)


CHANGES: dict[str, Callable[[Path], object]] = {
    "longer": lambda file: file.write_text("longer"),
    "gone": lambda file: file.unlink(),
    "another of the same size and time": replaced,
    "of the same size, later": lambda file: os.utime(file, ns=(1, 1)),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_every_kind_of_change_is_noticed(file: Path, change: Callable[[Path], object]) -> None:
    async def scene(changed: asyncio.Event) -> None:
        change(file)
        await asyncio.wait_for(changed.wait(), 5)

    assert asyncio.run(watching([file], scene)) == 1


def test_a_file_that_was_not_there_before_is_noticed(file: Path) -> None:
    async def scene(changed: asyncio.Event) -> None:
        (file.parent / "later").write_text("")
        await asyncio.wait_for(changed.wait(), 5)

    assert asyncio.run(watching([file.parent / "later"], scene)) == 1


def test_a_swapped_link_is_noticed_as_kubernetes_swaps_a_config_map(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "routes.yaml").write_text(version)
    (tmp_path / "..data").symlink_to("1")
    (tmp_path / "routes.yaml").symlink_to("..data/routes.yaml")

    async def scene(changed: asyncio.Event) -> None:
        (tmp_path / "..new").symlink_to("2")
        (tmp_path / "..new").replace(tmp_path / "..data")
        await asyncio.wait_for(changed.wait(), 5)

    assert asyncio.run(watching([tmp_path / "routes.yaml"], scene)) == 1


def test_several_steps_of_one_change_are_told_once(file: Path) -> None:
    async def scene(changed: asyncio.Event) -> None:
        for step in range(10):
            file.write_text("x" * step)
            await asyncio.sleep(0.005)
        await asyncio.wait_for(changed.wait(), 5)
        await asyncio.sleep(0.1)

    assert (
        asyncio.run(watching([file], scene)) <= 2
    )  # the machine may take longer for a step than a file is to be still


def test_a_file_that_never_rests_does_not_keep_others_from_being_read(file: Path) -> None:
    async def scene(changed: asyncio.Event) -> None:
        for step in range(1000):
            file.write_text("x" * (step % 7 + 1))
            await asyncio.sleep(0.002)
            if changed.is_set():
                return

    assert asyncio.run(watching([file], scene)) == 1


def test_what_was_read_by_other_means_is_no_news(file: Path) -> None:
    calls = 0

    async def scene() -> None:
        async def on_change() -> None:
            nonlocal calls
            calls += 1

        watcher = Watcher(lambda: [file], on_change)
        await watcher.mark()
        task = asyncio.create_task(watcher.run())
        await asyncio.sleep(0.05)
        file.write_text("changed")
        await watcher.mark()
        await asyncio.sleep(0.1)
        task.cancel()

    asyncio.run(scene())
    assert calls == 0


def test_a_failure_does_not_end_the_watching(file: Path) -> None:
    calls = asyncio.Queue[None]()

    async def scene() -> None:
        async def on_change() -> None:
            calls.put_nowait(None)
            raise OSError("disk full")

        watcher = Watcher(lambda: [file], on_change)
        await watcher.mark()
        task = asyncio.create_task(watcher.run())
        for text in ("two!", "three"):
            file.write_text(text)
            await asyncio.wait_for(calls.get(), 5)
        task.cancel()

    asyncio.run(scene())


def test_a_folder_that_cannot_be_read_is_stamped_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that other users may not look into; the tests may run as root, to whom everything is open."""

    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert [name for name, *_ in stamp([tmp_path])] == [str(tmp_path)]
