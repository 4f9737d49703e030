"""How much of the memory that it may have a worker uses."""

import os
from pathlib import Path

_GROUP = Path("/sys/fs/cgroup")


def used(limit: int | None, group: Path = _GROUP) -> float:
    """The part of `limit` bytes that this process has; of its control group's limit, all processes together, if `limit`
    is None; 0.0 if there is none."""
    if limit is not None:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return resident / limit
    try:
        bound = int((group / "memory.max").read_text())
        current = int((group / "memory.current").read_text())
        # Pages of files that nobody uses: given back before anything fails.
        for line in (group / "memory.stat").read_text().splitlines():
            if line.startswith("inactive_file "):
                current -= int(line.split()[1])
    except (OSError, ValueError):  # "max": no limit; or no such group
        return 0.0
    return current / bound
