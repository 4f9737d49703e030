"""The compiled, immutable configuration: what a request reads once and keeps to its end."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.core.access import Access
from gateway.core.dispatch import Directory
from gateway.core.pool import Pool
from gateway.core.split import Split

ENDPOINTS = 16_384  # that one machine's zone has cells for; a configuration with more is refused

Chain = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass(slots=True)
class Route:
    """One model: its versions and the chain of layers that a request for it goes through."""

    name: str
    pools: Mapping[str, Pool]
    split: Split
    chain: Chain
    aliases: Sequence[str] = ()
    methods: frozenset[str] = frozenset()  # allowed; empty: all
    body_bytes: int = 0  # the largest body that it takes; 0: any
    json_bytes: int = 32 * 2**20  # the largest body read to find `model` in it
    auth: frozenset[str] = frozenset()  # ways to authenticate, any of them; empty: public
    access: Access | None = None  # whom of the known callers; None: all
    tail: Chain | None = None  # the part of the chain behind the choice of the version
    is_hidden: bool = False  # from all who may not call it
    passes_credentials: bool = False  # the caller's, to the model server

    def __repr__(self) -> str:
        return f"<Route {self.name} {list(self.pools)} {self.split!r}>"


@dataclass(slots=True)
class Snapshot:
    """Everything compiled from one generation of the configuration."""

    generation: int
    entry: Chain  # global plugins, then matching
    directory: Directory = field(default_factory=Directory)
    routes: Mapping[str, Route] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Snapshot {self.generation} of {len(self.routes)} models>"
