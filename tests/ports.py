"""Ports that no other test, and no connection, can get: tests run side by side, and many processes of them at once.

A port that the system chose and that was closed again is anybody's: of another test that asks for one, of a connection
that leaves from it, even of one to itself (a client that tries a port where nobody listens may be given just this port
to leave from, and is connected). So these are below the range that the system chooses from, and each process of tests
has a block of them to itself, claimed by a socket with a name, which ends with the process.
"""

import itertools
import os
import random
import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_LOWEST, _SIZE = 10_000, 200


@cache
def _block(_: int) -> tuple[Iterator[int], socket.socket]:
    """The ports of this process, round and round, and what claims them."""
    chosen_from = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    blocks = [range(first, first + _SIZE) for first in range(_LOWEST, chosen_from - _SIZE + 1, _SIZE)]
    random.SystemRandom().shuffle(blocks)
    for block in blocks:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0gateway-tests-ports-{block.start}")
        except OSError:
            claim.close()
            continue
        return itertools.cycle(block), claim
    raise AssertionError("every block of ports is taken")


def free_port() -> int:
    """A port that nothing listens on, and that nobody else is given for the next 199 calls."""
    ports, _ = _block(os.getpid())
    for port in itertools.islice(ports, _SIZE):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue  # somebody listens
        return port
    raise AssertionError("every port of this process is taken")
