"""Lengths and times of real services' requests, from a folder beside the project's; its README has their licences."""

import csv
import gzip
import io
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

from bench.processes import Failed

_PLACES = [folder / "shared" / "traces" for folder in Path(__file__).parents[3:]]  # a worktree lies deeper
CONVERSATION = "AzureLLMInferenceTrace_conv.csv.gz"
CODE = "AzureLLMInferenceTrace_code.csv.gz"


class Row(NamedTuple):
    at: float  # seconds since the first
    prompt: int  # tokens
    output: int


@cache
def azure(name: str) -> tuple[Row, ...]:
    """Raises Failed if the trace is not there."""
    path = next((place / name for place in _PLACES if (place / name).exists()), None)
    if path is None:
        raise Failed(f"needs the trace {name} in a folder shared/traces beside the project")
    with gzip.open(path, "rb") as file:
        return tuple(_rows(csv.DictReader(io.TextIOWrapper(file, "utf-8"))))


def _rows(lines: Iterable[dict[str, str]]) -> list[Row]:
    rows = [
        Row(
            datetime.fromisoformat(line["TIMESTAMP"][:26]).timestamp(),
            int(line["ContextTokens"]),
            max(int(line["GeneratedTokens"]), 1),
        )
        for line in lines
    ]
    start = min(row.at for row in rows)
    return sorted(row._replace(at=row.at - start) for row in rows)
