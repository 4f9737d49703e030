"""Load by wrk, which is cheap enough to leave a core to whoever is measured."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.contestants import Started
from bench.processes import Failed

_SCRIPT = Path(__file__).with_name("post.lua")


@dataclass(frozen=True)
class Load:
    """What clients do."""

    clients: int = 32
    method: str = "POST"
    body: int = 0  # bytes; 0: a small chat's
    is_kept: bool = True  # connections are kept alive
    credentials: str = "keys"  # or tokens, of the site; clients take turns with them
    paths: Sequence[str] = ()  # instead of the contestant's


@dataclass(frozen=True)
class Done:
    """What came of it."""

    requests: int
    bytes: int
    seconds: float
    refused: int
    broken: int
    p50: float  # microseconds
    p99: float


def run(load: Load, started: Started, seconds: float) -> Done:
    """Raises Failed if any request failed: an error answer is cheap, and proves nothing."""
    if shutil.which("wrk") is None:
        raise Failed("wrk is not on PATH (apt-get install wrk)")
    turns = started.folder / "turns"
    turns.write_text(_turns(load, started))
    command = ["wrk", "-t1", f"-c{load.clients}", f"-d{seconds:.0f}s", "--timeout", "10s", "-s", str(_SCRIPT)]
    command += [started.url, "--", str(turns), str(load.body), "keep" if load.is_kept else "close", load.method]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
    line = next((line for line in said.stdout.splitlines() if line.startswith("RESULT ")), None)
    if said.returncode or line is None:
        raise Failed(f"wrk: {(said.stderr or said.stdout).strip()}")
    done = Done(**json.loads(line.removeprefix("RESULT ")))
    if done.refused or done.broken or not done.requests:
        raise Failed(f"{started.contestant.name}: {done.refused} of {done.requests} refused, {done.broken} broken")
    return done


def _turns(load: Load, started: Started) -> str:
    secrets = started.site.tokens if load.credentials == "tokens" else started.site.keys
    bearers = [f"Bearer {secret}" for secret in secrets] if started.contestant.policies else [""]
    paths = load.paths or [started.contestant.path]
    count = max(len(paths), len(bearers))
    lines = (f"{paths[turn % len(paths)]}\t{bearers[turn % len(bearers)]}\n" for turn in range(count))
    return "".join(lines)
