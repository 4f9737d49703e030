"""Probe: ask every endpoint how it is, and say when the answer changes what may be sent there.

The rules of health are in `core/health.py`; this is the asking. One task for each (URL, check), however many pools
share it. It runs in the controller: a slow or lying endpoint costs the data plane nothing.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable, Mapping
from random import Random
from socket import SOCK_STREAM
from typing import NamedTuple

from gateway.config.settings import HealthSettings
from gateway.control import grpc
from gateway.control.http import Line
from gateway.core.endpoint import Address, Health
from gateway.core.health import Vitals, drain, judge, pause

_log = logging.getLogger("gateway.control.probe")

OnChange = Callable[[str, Health, str], None]

CONCURRENCY = 64  # checks under way at once; the others wait their turn, and their timeout starts with it
_HEADERS = {"user-agent": "gateway-probe", "accept": "*/*", "accept-encoding": "identity"}

# Two checks of one URL may differ in their verdict: the URL is as open as the most hopeful one says. A server whose
# one model is not ready is still there for the others; a server that is gone fails every check.
_OPENNESS = (Health.UP, Health.CHECKING, Health.PROBATION, Health.DOWN, Health.DRAINING)


class Check(NamedTuple):
    """How to ask; durations in seconds."""

    path: str
    interval: float
    timeout: float
    rise: int
    fall: int
    expect: frozenset[int]  # statuses that are good; empty: any 2xx or 3xx
    kind: str = "http"  # http | tcp | grpc
    port: int | None = None  # another one than the URL's
    headers: tuple[tuple[str, str], ...] = ()
    contains: str = ""  # in the answer's body
    service: str = ""  # asked about by gRPC; "": the server as a whole

    def is_good(self, status: int) -> bool:
        return status in self.expect if self.expect else 200 <= status < 400


class Target(NamedTuple):
    """What is to be probed. No check: it counts as up. Draining: it is not asked."""

    url: str
    check: Check | None = None
    drain: bool = False
    tls: ssl.SSLContext | None = None  # for https; None: the system's CAs
    server_name: str | None = None  # asked for and verified instead of the URL's host

    @classmethod
    def of(
        cls,
        url: str,
        health: HealthSettings | None,
        *,
        drain: bool = False,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> "Target":
        if health is None:
            return cls(url, None, drain)
        expect = frozenset(health.expect)
        check = Check(
            health.path,
            health.interval,
            health.timeout,
            health.rise,
            health.fall,
            expect,
            health.type,
            health.port,
            tuple(health.headers.items()),
            health.contains,
            health.service,
        )
        return cls(url, check, drain, tls, server_name)

    @property
    def start(self) -> Vitals:
        if self.drain:
            return drain()
        return Vitals(Health.CHECKING if self.check else Health.UP)


class _Probe:
    """A target, what is known of it, and the task that asks."""

    __slots__ = ("target", "task", "vitals")

    def __init__(self, target: Target, vitals: Vitals) -> None:
        self.target = target
        self.vitals = vitals
        self.task: asyncio.Task[None] | None = None


class Prober:
    """Probes a set of targets until it is closed.

    `on_change(url, health, reason)` is called for each URL once when it is new, and whenever its health changes; it
    is called in the event loop's thread and must not block. `rng` spreads the checks.
    """

    def __init__(self, on_change: OnChange, *, rng: Random | None = None) -> None:
        self._on_change = on_change
        self._rng = rng or Random()
        self._gate = asyncio.Semaphore(CONCURRENCY)
        self._probes: dict[Target, _Probe] = {}
        self._by_url: dict[str, list[_Probe]] = {}
        self._states: dict[str, Health] = {}  # as told
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def states(self) -> Mapping[str, Health]:
        """Of every URL, as it was last told."""
        return self._states

    def update(self, targets: Iterable[Target]) -> None:
        """Probe these from now on. What is known of a target that stays is kept, also if only its timing changes.

        Must be called in the event loop's thread.
        """
        before = self._probes
        wanted = dict.fromkeys(targets)
        new = wanted.keys() - before.keys()
        known = {_same(probe.target): probe.vitals for probe in before.values()} if new else {}
        self._probes = {t: _Probe(t, known.get(_same(t), t.start)) if t in new else before[t] for t in wanted}
        for target in before.keys() - wanted.keys():
            self._end(before[target])
        self._by_url = {}
        for target, probe in self._probes.items():
            self._by_url.setdefault(target.url, []).append(probe)
            if probe.task is None and target.check and not target.drain:
                probe.task = asyncio.get_running_loop().create_task(self._watch(probe, target.check))
        self._states = {url: state for url, state in self._states.items() if url in self._by_url}
        for url in self._by_url:
            self._tell(url, "configured")

    async def close(self) -> None:
        """End all probing; nothing is told any more."""
        for probe in self._probes.values():
            self._end(probe)
        self._probes, self._by_url = {}, {}
        while self._ending:
            await asyncio.gather(*self._ending, return_exceptions=True)

    def _end(self, probe: _Probe) -> None:
        if probe.task is not None:
            self._ending.add(probe.task)
            probe.task.add_done_callback(self._ending.discard)
            probe.task.cancel()

    async def _watch(self, probe: _Probe, check: Check) -> None:
        target, url = probe.target, probe.target.url
        address = Address.parse(url)
        address = address._replace(port=check.port or address.port)
        line, request = Line(address, target.tls, target.server_name), _request(address, check)
        clock = asyncio.get_running_loop().time
        try:
            while True:
                began = clock()
                try:
                    async with self._gate:
                        began = clock()
                        is_good, reason = await _ask(target, check, line, request)
                    probe.vitals = judge(probe.vitals, is_good, check.rise, check.fall)
                    self._tell(url, reason)
                except Exception as error:  # the task's border: the next check comes whatever went wrong with this one
                    _log.error("endpoint %s: the check itself failed: %r", url, error)
                await asyncio.sleep(began + pause(probe.vitals, check.interval, self._rng) - clock())
        finally:
            line.close()

    def _tell(self, url: str, reason: str) -> None:
        health = min((probe.vitals.health for probe in self._by_url[url]), key=_OPENNESS.index)
        before = self._states.get(url)
        if health is before:
            return
        if before is not None:
            level = logging.WARNING if health is Health.DOWN else logging.INFO
            _log.log(level, "endpoint %s: %s -> %s: %s", url, before.name.lower(), health.name.lower(), reason)
        self._on_change(url, health, reason)
        self._states[url] = health

    def __repr__(self) -> str:
        states = list(self._states.values())
        counts = ", ".join(f"{states.count(h)} {h.name.lower()}" for h in Health if h in states)
        return f"<Prober of {len(self._probes)} targets: {counts}>"


def _same(target: Target) -> tuple[str, Check | None, bool]:
    """Targets alike in this ask the same question."""
    question = target.check._replace(interval=0.0, timeout=0.0, rise=0, fall=0) if target.check else None
    return target.url, question, target.drain


async def _ask(target: Target, check: Check, line: Line, request: bytes) -> tuple[bool, str]:
    """One check: its verdict, and why."""
    address = line.address
    try:
        async with asyncio.timeout(check.timeout):
            if check.kind == "http":
                status, body = await line.ask(request)
            else:
                # Once at a time, as in `Line`.
                await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=SOCK_STREAM)
                if check.kind == "tcp":
                    return await _connect(address, target)
                return await grpc.check(address, check.service, target.tls, target.server_name)
    except TimeoutError:
        return False, f"no answer within {check.timeout:g} s"
    except OSError as error:
        return False, f"{type(error).__name__}: {error}"
    if check.is_good(status) and check.contains.encode() not in body:
        return False, f"status {status}, without {check.contains!r} in its body"
    return check.is_good(status), f"status {status}"


async def _connect(address: Address, target: Target) -> tuple[bool, str]:
    """Somebody accepts, TLS included. Raises OSError."""
    name = (target.server_name or address.host) if target.tls else None
    _, writer = await asyncio.open_connection(address.host, address.port, ssl=target.tls, server_hostname=name)
    writer.transport.abort()
    return True, "connected"


def _request(address: Address, check: Check) -> bytes:
    fields = {"host": address.authority.decode(), **_HEADERS, **dict(check.headers)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"GET {address.prefix.decode()}{check.path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
