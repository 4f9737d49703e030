"""What one endpoint has before it, counted in tokens and streams: the picture that policies for language models use.

A gateway that passes streams on sees every first token, so it need not ask: a prompt is `pending` from the moment that
it is sent until its first token comes, and `running` from then to its end. Each worker writes its own two cells of an
endpoint and adds up all; like counts of requests in flight, they belong to the endpoint and survive a reload.
"""

from collections.abc import MutableSequence, Sequence
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from gateway.core.speed import Speed

if TYPE_CHECKING:
    from gateway.core.prefixes import Prefixes


class EngineLoad(NamedTuple):
    """What an engine says of itself (vLLM's, SGLang's, Triton's metrics); see `Work.engine`."""

    at: float  # when it was read, seconds of the clock that policies are handed
    waiting: int  # requests that it has not begun
    running: int
    kv_usage: float  # share of its cache that is in use, 0 to 1


ENGINE_FRESH = 3.0  # seconds: what an engine said is ignored when it is older; it is asked every second


class Cells(NamedTuple):
    """The cells of the zone that `Work` reads and writes, each indexed by an endpoint's slot."""

    pending: MutableSequence[int] | memoryview  # tokens, written by this worker alone
    running: MutableSequence[int] | memoryview  # streams, written by this worker alone
    others_pending: Sequence[Sequence[int]] = ()  # the other workers'
    others_running: Sequence[Sequence[int]] = ()


class Work:
    """One endpoint's. `pending` and `running` are what policies compare: this worker's part to the moment, the others'
    as `load.Works` last summed them."""

    __slots__ = (
        "_area", "_area_at", "_cells", "_slot", "a", "b", "d", "e", "engine", "own_pending", "own_running", "pending",
        "prefixes", "running", "speed", "waiting",
    )  # fmt: skip

    def __init__(self, slot: int, cells: Cells | None) -> None:
        self._slot = slot
        self._cells = cells  # None: nobody shares
        self.own_pending = 0
        self.own_running = 0
        self.pending = 0  # tokens not prefilled yet
        self.running = 0  # streams past their first token
        self.waiting: dict[Stream, None] = {}  # this worker's streams before their first token, oldest first
        self.speed = Speed()
        self.a = self.b = self.d = self.e = 0.0  # its lines, as `pick/llm.py` last fitted them
        self.prefixes: Prefixes | None = None  # what it probably keeps; None where no policy asks
        self.engine: EngineLoad | None = None  # written by whoever reads the engine's metrics
        self._area = 0.0  # running, integrated over time: the mean of any span is a difference by its length
        self._area_at = 0.0

    def begin(self, tokens: int, cached: int, now: float) -> "Stream":
        """A prompt of `tokens`, the first `cached` of which the endpoint should know, is sent now."""
        stream = Stream(self, max(tokens - cached, 1), now)
        self._add(stream.tokens, 0)
        self.waiting[stream] = None
        return stream

    def area(self, now: float) -> float:
        self._area += self.running * max(now - self._area_at, 0.0)
        self._area_at = max(now, self._area_at)
        return self._area

    def _add(self, tokens: int, streams: int) -> None:
        self.own_pending += tokens
        self.own_running += streams
        self.pending += tokens
        self.running += streams
        cells = self._cells
        if cells is not None:
            cells.pending[self._slot] = self.own_pending
            cells.running[self._slot] = self.own_running

    def refresh(self) -> None:
        """Add up all workers' cells, exactly."""
        pending, running = self.own_pending, self.own_running
        cells = self._cells
        if cells is not None:
            for tokens in cells.others_pending:
                pending += tokens[self._slot]
            for streams in cells.others_running:
                running += streams[self._slot]
        self.pending, self.running = pending, running

    @property
    def cells_read(self) -> int:
        """How many cells of other workers `refresh` reads."""
        return 2 * len(self._cells.others_pending) if self._cells is not None else 0

    def __repr__(self) -> str:
        return f"<Work pending={self.pending} running={self.running} {self.speed!r}>"


class Stream:
    """One request at one endpoint: told what happens to it, it tells the endpoint's `Work`. `end` is due exactly once,
    however the request ends; `first` at its first token, if one comes."""

    __slots__ = ("_area", "_before", "_first", "began", "tokens", "work")

    def __init__(self, work: Work, tokens: int, now: float) -> None:
        self.work = work
        self.tokens = tokens  # to prefill
        self._before = work.pending + tokens  # what had to be prefilled until its first token
        self.began = now
        self._first = -inf
        self._area = 0.0

    def first(self, now: float) -> None:
        """The first token came: the prompt is prefilled, the stream runs. A second call changes nothing."""
        if self._first > -inf:
            return
        work = self.work
        self._area = work.area(now)
        self._first = now
        del work.waiting[self]
        work._add(-self.tokens, 1)
        work.speed.add_first(self._before, now - self.began, now)

    def end(self, now: float, tokens: int = 0, *, is_failed: bool = False) -> None:
        """It is over, after `tokens` of output (0: nobody counted)."""
        work = self.work
        if self._first == -inf:
            del work.waiting[self]
            work._add(-self.tokens, 0)
            return
        area = work.area(now)
        work._add(0, -1)
        seconds = now - self._first
        if not is_failed and tokens > 1 and seconds > 0.0:
            work.speed.add_stream((area - self._area) / seconds, seconds / (tokens - 1), tokens, now)

    def __repr__(self) -> str:
        return f"<Stream of {self.tokens} tokens {'running' if self._first > -inf else 'pending'}>"
