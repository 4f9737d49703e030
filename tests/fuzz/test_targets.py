"""The fuzz targets hold for what is known already; with atheris, for a moment of guessing too."""

import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fuzz import mutations
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
SEEDS: dict[str, list[bytes]] = {
    "requests": [b"\x07" + raw for raw in mutations.seeds()],
    "replies": [
        b"\x05HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        b"\x03HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nX: 1\r\n\r\n",
        b"\x02HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 204 X\r\n\r\n",
    ],
    "announced": [
        b"PROXY TCP4 192.0.2.1 203.0.113.7 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24" + bytes(36),
    ],
    "paths": [b"/a/b/../c/./d//e;v=1", b"/%2e%2e/%2F%41%c3%a9", b'/a"b|c\\d', b"/\xff?x"],
    "cookies": [b"a" * 48 + b"." + b"b" * 48, b"", b"x=1; gw=" + b"A" * 48],
    "forwarded": [b"\x001.2.3.4, 10.0.0.1", b'a\0for="[2001:db8::1]:1";by="x, y", for=1.2.3.4', b"ab\x001.2.3.4"],
    "fields": [b"x-a: 1\nconnection: x-b, cookie\nx-b: 2\ncookie: c", b"a:b\nA:c"],
    "config": [(ROOT / "routes.yaml").read_bytes(), b"models: {m: {versions: {v: {endpoints: [http://h]}}}}"],
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_holds_for_its_seeds_and_their_mutants(name: str) -> None:
    dice = random.Random(name)
    seeds = SEEDS[name]
    count = 30 if name in ("requests", "config") else 500
    for data in [*seeds, *(mutations.mutant(dice, seeds) for _ in range(count))]:
        TARGETS[name](data)


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris (the extra `fuzz`) is not installed")
def test_the_fuzzer_runs_and_finds_nothing_in_a_moment(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, data in enumerate(SEEDS["requests"][::10]):
        (corpus / str(number)).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "requests", "-runs=200", f"-artifact_prefix={tmp_path}/", str(corpus)],
        cwd=ROOT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Done 200 runs" in done.stderr + done.stdout
