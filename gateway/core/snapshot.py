"""The compiled, immutable configuration: what a request reads once and keeps to its end."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol, runtime_checkable

from gateway.core.access import Access
from gateway.core.dispatch import Directory
from gateway.core.endpoint import Endpoint
from gateway.core.load import OpenList
from gateway.core.outcome import Watcher
from gateway.core.prompt import Prompt
from gateway.core.split import Split
from gateway.core.work import Stream

ENDPOINTS = 16_384  # that one machine's zone has cells for; a configuration with more is refused

Chain = Callable[[Any, Any, Any], Awaitable[None]]


class Policy(Protocol):
    """How a pool chooses; see `pick/`."""

    def pick(self, candidates: Sequence[Endpoint], key: Any, now: float, rng: Random) -> Endpoint:
        """Choose among `candidates` (never empty, a subset of the pool's endpoints). `key` is what it picks by: the
        bytes that a hash hashes, or an `Inference`."""
        ...


@runtime_checkable
class PromptPolicy(Policy, Protocol):
    """A policy that reads prompts; `pick` is for what has none. See `pick/prompted.py`."""

    def choose(self, candidates: Sequence[Endpoint], prompt: Prompt, now: float, rng: Random) -> Endpoint:
        """As `pick`, by what the request is."""
        ...

    def begin(self, endpoint: Endpoint, prompt: Prompt, now: float) -> Stream:
        """The prompt is sent to `endpoint` now, whoever chose it. What becomes of it, the stream must be told."""
        ...


@dataclass(slots=True)
class Pool:
    """The endpoints of one model version."""

    model: str
    version: str
    endpoints: Sequence[Endpoint]
    policy: Policy
    served_model: str  # what the upstream calls the model
    served_version: str | None  # what it calls the version; None: as the client says
    watchers: tuple[Watcher, ...] = ()  # told of every attempt: see `core/outcome.py`
    _open: OpenList = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._open = OpenList(self.endpoints)

    def candidates(self, tried: Collection[Endpoint] = ()) -> Sequence[Endpoint]:
        """Endpoints that may take new work: those that are up; failing that, those not yet checked. `tried` are out."""
        return self._open.candidates(tried)


@dataclass(slots=True)
class Route:
    """One model: its versions and the chain of layers that a request for it goes through."""

    name: str
    pools: Mapping[str, Pool]
    split: Split
    chain: Chain
    aliases: Sequence[str] = ()
    methods: frozenset[str] = frozenset()  # allowed; empty: all
    json_bytes: int = 32 * 2**20  # the largest body read to find `model` in it
    auth: frozenset[str] = frozenset()  # ways to authenticate, any of them; empty: public
    access: Access | None = None  # whom of the known callers; None: all

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
