"""What the operator's door can see and ask for. The controller implements it; nothing here knows how."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from gateway.core.endpoint import Health
from gateway.core.metrics import Totals

GATEWAY = "gateway"  # a target of drain: all of it


class EngineView(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint's engine last said of itself."""

    waiting: int  # requests
    running: int
    kv_usage: float  # share of its cache, 0 to 1
    cache: int = 0  # tokens that it holds; 0: it does not say


class EndpointView(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint as a pool of `model` and `version` has it; the same address may be in several."""

    model: str
    version: str
    url: str
    health: Health
    in_flight: int = 0  # over all workers
    latency: float = 0.0  # average seconds to the first byte; 0.0: no sample yet
    weight: float = 1.0
    pending_tokens: int = 0  # of prompts sent there and not begun to be answered
    running_streams: int = 0  # past their first token
    engine: EngineView | None = None  # None: not asked, or silent for some seconds
    traffic: str = ""  # why it gets no work though it may be up: "out 12 s", "busy 3 s", "on trial" …
    ejections: int = 0  # how often its requests had it left out


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    slot: int
    pid: int  # 0: not running
    generation: int  # of the snapshot it serves
    starts: int = 1  # times that a worker of this slot was started
    connections: int = 0
    is_ending: bool = False  # it finishes what runs, and has a successor


class CertificateView(msgspec.Struct, frozen=True, kw_only=True):
    name: str  # of its files
    hosts: Sequence[str]
    expires: float = 0.0  # seconds since the epoch; 0.0: `name` is that of a file, and nothing of it is served
    problem: str = ""  # what is wrong with it now


class IssuerView(msgspec.Struct, frozen=True, kw_only=True):
    """An issuer of JWTs, and how it goes with its keys."""

    issuer: str
    failures: int  # attempts to get them since one last went well
    age: float | None  # seconds since one did; None: none has, in this process


class KeyStoreView(msgspec.Struct, frozen=True, kw_only=True):
    """`auth.key_store`."""

    failures: int  # in a row
    age: float | None  # seconds since it answered; None: it never has, in this process


class BucketsView(msgspec.Struct, frozen=True, kw_only=True):
    """Token buckets in use."""

    store: str  # shared | memory | redis
    used: int
    capacity: int | None  # None: the store has no bound of ours


class AdminView(Protocol):
    """The gateway as its operator sees it. What is not `async` is read from memory and does not block."""

    @property
    def generation(self) -> int:
        """Of the newest snapshot."""
        ...

    @property
    def started(self) -> float:
        """Seconds since the epoch."""
        ...

    @property
    def problems(self) -> Sequence[str]:
        """What is wrong with the files as they are now, so that older ones are in use; none: these are."""
        ...

    def obstacles(self) -> Sequence[str]:
        """Why no traffic should be sent here now (starting, draining, no worker): none, it is ready."""
        ...

    async def totals(self) -> Totals:
        """What all workers have counted up to now."""
        ...

    def endpoints(self) -> Sequence[EndpointView]: ...

    def workers(self) -> Sequence[WorkerView]: ...

    def certificates(self) -> Sequence[CertificateView]: ...

    def issuers(self) -> Sequence[IssuerView]: ...

    def key_store(self) -> KeyStoreView | None:
        """None: keys are in a file."""
        ...

    def buckets(self) -> BucketsView | None: ...

    async def reload(self) -> tuple[bool, Sequence[str]]:
        """Read the configuration again; -> whether it serves, and what was wrong; if it does, what waits for a
        restart."""
        ...

    async def drain(self, target: str, deadline: float | None = None) -> int:
        """Send no new work to a target: GATEWAY, an endpoint's URL, `model` or `model@version`; -> how many endpoints
        (of GATEWAY: 1) that is, 0 if there is no such target. After `deadline` seconds (None: never) sessions that
        are bound to it move on as well."""
        ...

    async def undrain(self, target: str) -> int:
        """The reverse of `drain`."""
        ...
