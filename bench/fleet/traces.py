"""Lengths and times of real services' requests, from a folder beside the project's; its README has their licences."""

import csv
import gzip
import io
import json
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

from bench.processes import Failed

_PLACES = [folder / "shared" / "traces" for folder in Path(__file__).parents[3:]]  # a worktree lies deeper
CONVERSATION = "AzureLLMInferenceTrace_conv.csv.gz"
CODE = "AzureLLMInferenceTrace_code.csv.gz"
MOONCAKE = "mooncake_conversation_trace.jsonl.gz"


class Row(NamedTuple):
    at: float  # seconds since the first
    prompt: int  # tokens
    output: int
    blocks: tuple[int, ...] = ()  # of 512 tokens, each named with all before it


@cache
def azure(name: str) -> tuple[Row, ...]:
    """Raises Failed if the trace is not there."""
    with gzip.open(_path(name), "rb") as file:
        return tuple(_rows(csv.DictReader(io.TextIOWrapper(file, "utf-8"))))


@cache
def mooncake() -> tuple[Row, ...]:
    """Raises Failed if the trace is not there."""
    with gzip.open(_path(MOONCAKE), "rb") as file:
        found = [json.loads(line) for line in file]
    return tuple(
        Row(each["timestamp"] / 1000, each["input_length"], each["output_length"], tuple(each["hash_ids"]))
        for each in found
    )


def _path(name: str) -> Path:
    path = next((place / name for place in _PLACES if (place / name).exists()), None)
    if path is None:
        raise Failed(f"needs the trace {name} in a folder shared/traces beside the project")
    return path


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
