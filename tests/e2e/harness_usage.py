"""What processes use: memory, file descriptors, sockets."""

import re
from collections.abc import Iterable
from pathlib import Path

MIB = 2**20


def private(pid: int) -> int:
    """Bytes of memory that a process has for itself."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * sum(map(int, re.findall(r"Private_(?:Clean|Dirty): +(\d+)", text)))


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class Peak:
    """The most memory that each of these processes uses, from here on (resident, with what it shares)."""

    def __init__(self, pids: Iterable[int]) -> None:
        self.processes = [Path(f"/proc/{pid}") for pid in pids]
        for process in self.processes:
            (process / "clear_refs").write_text("5")  # proc(5): the peak starts anew
        self.before = self.now()

    def now(self) -> list[int]:
        texts = [(process / "status").read_text() for process in self.processes]
        return [1024 * int(re.findall(r"VmHWM:\s+(\d+)", text)[0]) for text in texts]

    @property
    def growth(self) -> int:
        """Of the one that grew most."""
        return max(now - before for now, before in zip(self.now(), self.before, strict=True))
