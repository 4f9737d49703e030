"""The compiled, immutable configuration: what a request reads once and keeps to its end."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol, runtime_checkable

from gateway.core.access import Access
from gateway.core.dispatch import Directory
from gateway.core.ejection import Ejected, Ejector, Rules
from gateway.core.endpoint import Endpoint
from gateway.core.openlist import OpenList
from gateway.core.outcome import Watcher
from gateway.core.prompt import Prompt
from gateway.core.split import Split
from gateway.core.standing import Stand
from gateway.core.work import Stream
from gateway.errors import GatewayError, StaleConnection, UpstreamInvalid, UpstreamTruncated, UpstreamUnwilling

ENDPOINTS = 16_384  # that one machine's zone has cells for; a configuration with more is refused

_UNPROVEN = Stand.UNPROVEN
_BUSY = frozenset((429, 503))
_TRUE_WORDS = frozenset((501, 505))  # about the request, not about whoever answers
_NOBODY = frozenset((502, 503, 504))  # what stands before an endpoint says that it is not there
# A connection that was closed just as it was used again; an answer that was judged when it came.
_BLAMELESS = (StaleConnection, UpstreamUnwilling)

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
    rules: Rules | None = None  # what traffic may do to who is asked; None: nothing
    on_eject: Callable[[Ejected], None] | None = None  # told of whom they leave out
    _ejector: Ejector | None = field(init=False, repr=False)
    _open: OpenList = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._ejector = Ejector(self.endpoints, self.rules) if self.rules is not None else None
        self._open = OpenList(self.endpoints, self._ejector, self.on_eject)

    def candidates(self, tried: Collection[Endpoint] = (), now: float = 0.0) -> Sequence[Endpoint]:
        """Endpoints that may take new work: those that are up; failing that, those not yet checked. `tried` are out.
        `now` 0.0: as of the last time that somebody asked."""
        return self._open.candidates(tried, now)

    def pick(self, key: Any, now: float, rng: Random, tried: Collection[Endpoint] = ()) -> Endpoint | None:
        """The policy's choice for a request that will be sent there now; None: none is open."""
        candidates = self._open.candidates(tried, now)
        if not candidates:
            return None
        endpoint = self.policy.pick(candidates, key, now, rng)
        if endpoint.standing.state is _UNPROVEN:  # for every request: a property would cost 60 ns
            self._prove(endpoint, now)
        return endpoint

    def keep(self, endpoint: Endpoint, now: float) -> bool:
        """May the next request of a session that is at `endpoint` be sent there now?"""
        if not endpoint.may_keep:
            return False
        self._open.candidates((), now)  # what is known of it is as new as that
        standing = endpoint.standing
        if standing.is_unproven:
            self._prove(endpoint, now)
        return not standing.is_out or standing.is_spared or standing.is_trying

    def _prove(self, endpoint: Endpoint, now: float) -> None:
        """A request is sent to one that is not trusted again yet: until it has ended, it is the only one."""
        rules = self.rules
        if rules is not None and (endpoint.standing.is_out or (rules.is_shy and not rules.is_keyed)):
            endpoint.standing.begin_trial(now)

    @property
    def reopens(self) -> float:
        """When endpoints that traffic left out may be asked again; inf: that is not why none is open."""
        return self._open.reopens

    # --- what became of it ---

    def judge(self, endpoint: Endpoint, status: int, asked: float, now: float) -> bool:
        """An answer of 429 or above came, which asks for `asked` seconds of peace; -> whether it speaks well of the
        endpoint, as all others do."""
        if status in _BUSY and asked > 0.0:
            if self.rules is not None:
                endpoint.standing.busy(asked, now)
            return False
        if status >= 500 and status not in _TRUE_WORDS:
            self._blame(endpoint, now, is_gone=status in _NOBODY)
            return False
        if status == 429 and endpoint.standing.is_trying:
            endpoint.standing.abandon()
        return status != 429

    def fail(self, endpoint: Endpoint, error: GatewayError, now: float) -> None:
        """There was no answer, or it broke off."""
        if isinstance(error, _BLAMELESS) or error.owner != "upstream":
            if endpoint.standing.is_trying:
                endpoint.standing.abandon()
        else:
            self._blame(endpoint, now, is_gone=not isinstance(error, UpstreamTruncated | UpstreamInvalid))

    def _blame(self, endpoint: Endpoint, now: float, *, is_gone: bool) -> None:
        if self._ejector is not None:
            for ejected in self._ejector.fail(endpoint, now, is_gone=is_gone):
                if self.on_eject is not None:
                    self.on_eject(ejected)


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
    tail: Chain | None = None  # the part of the chain behind the choice of the version
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
