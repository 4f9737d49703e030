"""`redis://`: token buckets on a Redis (>= 5) or Valkey server, for one exact limit over several gateways.

One script per request decides over all of its limits at once, by the server's own clock. What the requests of one turn
of the event loop ask is sent together. A bucket is a key whose value is `full_at` and which expires then, by itself.

When the server fails to answer within `timeout`, the store is down: it says so at once to everybody who waits and to
everybody who comes, while a task of its own pings the server until it answers. So one batch of requests at most waits
for a dead server, once; what happens to requests meanwhile is the limit's `on_store_error`. A command is never sent
twice, since it may have been carried out.

On a cluster all keys of a request must be on one node: those of one `tag` are (it is their hash tag). `Quota` takes the
caller as the tag if all limits of a model are per the same thing, so that callers spread over the nodes, and the model
otherwise: a model with limits of several kinds has all its buckets on one node, which decides some 50,000 requests a
second.

The package's asynchronous storages make the client, for a single server, a cluster and sentinels; its windows work too.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from hashlib import blake2b, sha1
from typing import Any, Final, NamedTuple, cast

from limits.aio.storage import RedisClusterStorage, RedisSentinelStorage, RedisStorage
from limits.aio.storage.redis.redispy import RedispyBridge
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from gateway.errors import StoreUnavailable
from gateway.stores.buckets import AsyncTokenBucketSupport, TokenBucketSupport

_log = logging.getLogger("gateway.stores")

_FLIGHTS: Final = 4  # batches on their way at one time, each on a connection of its own
_WAITING: Final = 10_000  # requests that wait for the next batch; more are told that the store is unavailable
_PING_SECONDS: Final = (0.05, 0.1, 0.2, 0.5, 1.0)  # between two pings of a server that is down; the last one stays

# Times are microseconds since 2025-01-01, fractions allowed: a double still tells 0.01 us apart there in 2060, and that
# is what TAKE forgives. Debts are returned whole, rounded down if the limit admits and up if it refuses, so that they
# compare with the window as they did here.
_CLOCK: Final = """
local time = redis.call('TIME')
local now = (time[1] - 1735689600) * 1000000 + time[2]
local function debt_of(key)
  return math.max(tonumber(redis.call('GET', key) or '0') - now, 0)
end
local function keep(key, debt)
  if debt > 0 then
    redis.call('SET', key, string.format('%.3f', now + debt), 'PX', math.ceil(debt / 1000))
  else
    redis.call('DEL', key)
  end
end
"""
_TAKE: Final = (
    _CLOCK
    + """
local debts, told, admitted = {}, {}, true
for i, key in ipairs(KEYS) do
  local debt, window = debt_of(key) + ARGV[2 * i - 1], tonumber(ARGV[2 * i])
  debts[i] = debt
  if debt <= window + 0.02 then
    told[i] = math.floor(debt)
  else
    told[i] = math.ceil(debt)
    admitted = false
  end
end
if admitted then
  for i, key in ipairs(KEYS) do keep(key, debts[i]) end
end
return told
"""
)
_SETTLE: Final = (
    _CLOCK
    + """
keep(KEYS[1], debt_of(KEYS[1]) + ARGV[1])
"""
)


class _Script(NamedTuple):
    text: str
    sha: str


TAKE: Final = _Script(_TAKE, sha1(_TAKE.encode()).hexdigest())  # noqa: S324  how Redis names scripts
SETTLE: Final = _Script(_SETTLE, sha1(_SETTLE.encode()).hexdigest())  # noqa: S324


class _Call(NamedTuple):
    """One run of a script, and who waits for what it returns (nobody, if None)."""

    script: _Script
    keys: Sequence[str]
    arguments: Sequence[float]
    answer: asyncio.Future[Any] | None


class RedisBuckets(RedisStorage, AsyncTokenBucketSupport):
    """`local` is what counts on this machine while the server is away; `timeout` is in seconds.

    It names no scheme of its own, so the package's stay what they are. `outages` counts how often the server went away,
    `failures` the requests that were not decided by it. Raises limits' ConfigurationError for a bad URI."""

    def __init__(self, uri: str, local: TokenBucketSupport, timeout: float = 0.25, **options: Any) -> None:
        super().__init__(
            uri,
            implementation="redispy",
            key_prefix="gateway",
            **{"retry": Retry(NoBackoff(), 0), **options},  # a cluster's client would try again
        )
        self.local = local
        self.timeout = timeout
        self.client: Any = cast(RedispyBridge, self.bridge).get_connection()
        self.waiting: list[_Call] = []
        self.flights: set[asyncio.Task[None]] = set()
        self.recovery: asyncio.Task[None] | None = None  # runs while the server is down
        self.outages = 0
        self.failures = 0

    # --- what the strategy and the layers ask for ---

    def place(self, key: str, tag: str = "") -> str:
        """The server's name for the bucket: of one length whatever a client wrote, and without braces of its own."""
        return f"gateway:{{{_digest(tag or key, 8)}}}:{_digest(key, 16)}"

    async def take(self, places: Sequence[str], prices: Sequence[int], windows: Sequence[int]) -> list[int]:
        if self.recovery is not None or len(self.waiting) >= _WAITING:
            self.failures += 1
            raise StoreUnavailable
        arguments = [value / 1000 for pair in zip(prices, windows, strict=True) for value in pair]
        answer = asyncio.get_running_loop().create_future()
        self._send(_Call(TAKE, places, arguments, answer))
        return [debt * 1000 for debt in await answer]

    async def debt(self, place: str) -> int:
        return (await self.take([place], [0], [-1_000_000]))[0]  # no bucket has so small a window: nothing is written

    def settle(self, place: str, correction: int) -> None:
        if self.recovery is None and len(self.waiting) < _WAITING:
            self._send(_Call(SETTLE, [place], [correction / 1000], None))

    async def clear(self, key: str) -> None:
        """Fill the bucket of `key`, and forget its windows."""
        await super().clear(key)
        await self.client.delete(self.place(key))

    # --- the way to the server ---

    def _send(self, call: _Call) -> None:
        self.waiting.append(call)
        if len(self.waiting) == 1:
            asyncio.get_running_loop().call_soon(self._depart)

    def _depart(self) -> None:
        """Send what waits, unless enough is under way; then the next landing does."""
        if self.waiting and len(self.flights) < _FLIGHTS:
            calls, self.waiting = self.waiting, []
            flight = asyncio.get_running_loop().create_task(self._fly(calls))
            self.flights.add(flight)

    async def _fly(self, calls: list[_Call]) -> None:
        try:
            async with asyncio.timeout(self.timeout):
                replies = await self._run(calls)
        except Exception as error:  # a task's border: whatever the client fails with, nobody may wait for ever
            replies = [error] * len(calls)
        for call, reply in zip(calls, replies, strict=True):
            if isinstance(reply, Exception):
                self._fail(call, reply)
            elif call.answer is not None and not call.answer.done():
                call.answer.set_result(reply)
        self.flights.discard(asyncio.current_task())
        self._depart()

    async def _run(self, calls: Sequence[_Call]) -> list[Any]:
        """The replies, exceptions among them. A server that has just started is given the scripts first."""
        replies = await self._execute(calls)
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            for script in (TAKE, SETTLE):
                await self.client.script_load(script.text)
            for i, reply in zip(unknown, await self._execute([calls[i] for i in unknown]), strict=True):
                replies[i] = reply
        return replies

    async def _execute(self, calls: Sequence[_Call]) -> list[Any]:
        pipeline = self.client.pipeline(transaction=False)
        for call in calls:
            # Not `evalsha`: the cluster's pipeline has it blocked, although it finds the node of such a command.
            pipeline.execute_command("EVALSHA", call.script.sha, len(call.keys), *call.keys, *call.arguments)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies

    # --- when it is down ---

    def _fail(self, call: _Call, error: Exception) -> None:
        self.failures += 1
        if call.answer is not None and not call.answer.done():
            call.answer.set_exception(StoreUnavailable())
        if self.recovery is None:
            self.outages += 1
            kind = type(error).__name__
            _log.error("the limits store is down, limits do as their on_store_error says: %s: %s", kind, error)
            self.recovery = asyncio.get_running_loop().create_task(self._recover())
            waiting, self.waiting = self.waiting, []
            for each in waiting:
                self._fail(each, error)

    async def _recover(self) -> None:
        """Run a script that writes until the server answers: a cluster may answer a ping while it serves no keys, and a
        replica, or a server without memory, while it takes none."""
        pauses = iter(_PING_SECONDS)
        pause = 0.0
        while not await self._is_answering():
            pause = next(pauses, pause)
            await asyncio.sleep(pause)
        _log.warning("the limits store is back; %d requests were decided without it", self.failures)
        self.recovery = None

    async def _is_answering(self) -> bool:
        probe = _Call(SETTLE, [self.place("probe")], [1], None)
        try:
            async with asyncio.timeout(self.timeout):
                return not isinstance((await self._run([probe]))[0], Exception)
        except Exception:  # the same border: whatever it says, it is no answer
            return False

    async def aclose(self) -> None:
        """End what runs and close the connections."""
        for task in [*self.flights, *([self.recovery] if self.recovery else [])]:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self.client.aclose()

    def __repr__(self) -> str:
        state = "down" if self.recovery is not None else "up"
        return f"<{type(self).__name__} {state} waiting={len(self.waiting)} outages={self.outages}>"


class RedisClusterBuckets(RedisBuckets, RedisClusterStorage):
    """`redis+cluster://host:port,host:port`"""


class RedisSentinelBuckets(RedisBuckets, RedisSentinelStorage):
    """`redis+sentinel://host:port,host:port/service`. A failover may forget what its replica had not seen yet."""


def _digest(text: str, size: int) -> str:
    return blake2b(text.encode(), digest_size=size).hexdigest()
