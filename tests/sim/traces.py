"""Traces of real services, from a folder beside the project's. See its README for sources and licences."""

import csv
import gzip
import io
import json
import os
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

_PLACES = [folder / "shared" / "traces" for folder in Path(__file__).parents[3:]]  # a worktree lies deeper
FOLDER = next((place for place in _PLACES if place.is_dir()), _PLACES[0])


class Row(NamedTuple):
    at: float  # seconds from the first one
    prompt: int
    output: int
    blocks: tuple[int, ...] = ()  # of 512 tokens


def need(name: str) -> None:
    """Skip a test that needs this trace where there is none; with CI=true, fail."""
    if not (FOLDER / name).exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"no trace {name} beside the project")
        pytest.skip(f"no trace {name} beside the project")


AZURE_CONV = "AzureLLMInferenceTrace_conv.csv.gz"
AZURE_CODE = "AzureLLMInferenceTrace_code.csv.gz"
MOONCAKE = "mooncake_conversation_trace.jsonl.gz"


@cache
def azure(name: str) -> list[Row]:
    rows: list[Row] = []
    with gzip.open(FOLDER / name, "rb") as file:
        for line in csv.DictReader(io.TextIOWrapper(file, "utf-8")):
            at = datetime.fromisoformat(line["TIMESTAMP"][:26]).timestamp()
            rows.append(Row(at, int(line["ContextTokens"]), max(int(line["GeneratedTokens"]), 1)))
    start = min(row.at for row in rows)
    return sorted(row._replace(at=row.at - start) for row in rows)


@cache
def mooncake() -> list[Row]:
    rows = []
    with gzip.open(FOLDER / MOONCAKE, "rb") as file:
        for line in file:
            each = json.loads(line)
            size = each["input_length"]
            rows.append(Row(each["timestamp"] / 1000, size, each["output_length"], tuple(each["hash_ids"])))
    return rows
