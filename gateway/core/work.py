"""What one endpoint has before it, counted in tokens and streams: the picture that policies for language models use.

A gateway that passes streams on sees every first token, so it need not ask: a prompt is `pending` from the moment that
it is sent until its first token comes, and `running` from then to its end. Each worker writes its own cells of an
endpoint and adds up all; like counts of requests in flight, they belong to the endpoint and survive a reload.
"""

from collections.abc import MutableSequence, Sequence
from math import exp, inf
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
    cache: int = 0  # tokens that it holds; 0: it does not say


ENGINE_FRESH = 3.0  # seconds: what an engine said is ignored when it is older; it is asked every second

# Share of prefills in an endpoint's time, at most: in what is learned of its pace as in what is foretold by that, or an
# endpoint that is all prefills would be taken to decode faster than it does. What comes next is not all like what came
# last: were a long prompt or two taken for its lot, too few endpoints would be left with all of the short ones.
BUSIEST = 0.7
RECENT = 5.0  # seconds: about as long as a stream runs, so that what it will meet is what was sent lately


class Cells(NamedTuple):
    """The cells of the zone that `Work` reads and writes, each indexed by an endpoint's slot."""

    pending: MutableSequence[int] | memoryview  # tokens, written by this worker alone, as the three below
    running: MutableSequence[int] | memoryview  # streams
    context: MutableSequence[int] | memoryview  # tokens
    prefilled: MutableSequence[int] | memoryview  # tokens, ever
    others_pending: Sequence[Sequence[int]] = ()  # the other workers'
    others_running: Sequence[Sequence[int]] = ()
    others_context: Sequence[Sequence[int]] = ()
    others_prefilled: Sequence[Sequence[int]] = ()


class Work:
    """One endpoint's. `pending`, `running` and `context` are what policies compare: this worker's part to the moment,
    the others' as `load.Works` last summed them."""

    __slots__ = (
        "_area", "_area_at", "_cells", "_recent_at", "_sent", "_slot", "a", "asked", "b", "context", "d", "e", "engine",
        "found", "front", "front_since", "own_context", "own_pending", "own_prefilled", "own_running", "pending",
        "prefilled", "prefixes", "recent", "room", "running", "speed", "strange", "strange_ahead", "strange_context",
        "stretch", "waiting",
    )  # fmt: skip

    def __init__(self, slot: int, cells: Cells | None) -> None:
        self._slot = slot
        self._cells = cells  # None: nobody shares
        self.own_pending = 0
        self.own_running = 0
        self.own_context = 0
        self.own_prefilled = cells.prefilled[slot] if cells is not None else 0  # goes on where a worker died
        self.pending = 0  # tokens of prompts without a first token yet
        self.running = 0  # streams past their first token
        self.context = 0  # tokens of these: their prompts, and half of what an output has on average
        self.prefilled = self.own_prefilled  # tokens, ever: what passed between two moments is a difference
        self.recent = 0.0  # tokens sent to be prefilled, each fading with RECENT; as of `fade`
        self._recent_at = -inf
        self._sent = 0  # all tokens that were sent to it when `fade` last looked
        self.waiting: dict[Stream, None] = {}  # this worker's streams before their first token, oldest first
        self.front = 0  # tokens of the first of them: what the endpoint is at now
        self.front_since = 0.0  # and since when
        self.speed = Speed()
        self.a = self.b = self.d = self.e = 0.0  # its lines, as `pick/llm.py` last fitted them
        self.stretch = 1.0  # what prefills make of a second of decoding
        self.prefixes: Prefixes | None = None  # what it probably keeps; None where no policy asks
        self.asked = 0  # tokens of prompts that were sent to it, and of those what it should have kept; whoever reports
        self.found = 0  # them takes them
        self.engine: EngineLoad | None = None  # written by whoever reads the engine's metrics
        # Of requests that are there and did not come through this gateway (`strangers.py`), as those above count its:
        self.strange = 0.0  # requests
        self.strange_ahead = 0.0  # tokens to prefill
        self.strange_context = 0.0
        self.room = inf  # `context` and `pending` together at which its cache is full, as far as its engine says
        self._area = 0.0  # context, integrated over time: the mean of any span is a difference by its length
        self._area_at = 0.0

    def begin(self, prompt: int, cached: int, output: int, now: float) -> "Stream":
        """A prompt of `prompt` tokens is sent now, the first `cached` of which the endpoint should know; an answer of
        `output` tokens is expected."""
        stream = Stream(self, max(prompt - cached, 1), prompt + output // 2, now)
        if not self.waiting:
            self.front, self.front_since = stream.tokens, now
        self.waiting[stream] = None
        self._add(stream.tokens, 0, 0)
        return stream

    def area(self, now: float) -> float:
        self._area += (self.context + self.strange_context) * max(now - self._area_at, 0.0)
        self._area_at = max(now, self._area_at)
        return self._area

    def ahead(self, now: float) -> float:
        """Tokens still to be prefilled: `pending`, less what must be done by now of the prompt at the front."""
        pending = self.pending + self.strange_ahead
        if not self.front or self.a <= 0.0:
            return pending
        return pending - min((now - self.front_since) / self.a, self.front)

    def meet(self, running: float, waiting: float, each: float, now: float) -> None:
        """So many strangers run and wait there now, of `each` tokens."""
        self.area(now)
        self.strange = running + waiting
        self.strange_ahead = waiting * each
        self.strange_context = running * each

    def fade(self, now: float) -> None:
        """Bring `recent` up to date."""
        sent = self.prefilled + self.pending
        kept = exp(min(self._recent_at - now, 0.0) / RECENT)
        if self._recent_at > -inf:
            self.recent = self.recent * kept + max(sent - self._sent, 0)
        self._recent_at = max(now, self._recent_at)
        self._sent = sent

    def _leave(self, stream: "Stream", now: float) -> None:
        """It waits no longer."""
        del self.waiting[stream]
        following = next(iter(self.waiting), None)
        self.front = following.tokens if following is not None else 0
        self.front_since = now

    def _add(self, tokens: int, streams: int, context: int) -> None:
        self.own_pending += tokens
        self.own_running += streams
        self.own_context += context
        self.pending += tokens
        self.running += streams
        self.context += context
        cells = self._cells
        if cells is not None:
            cells.pending[self._slot] = self.own_pending
            cells.running[self._slot] = self.own_running
            cells.context[self._slot] = self.own_context
            cells.prefilled[self._slot] = self.own_prefilled

    def refresh(self) -> None:
        """Add up all workers' cells, exactly."""
        cells, slot = self._cells, self._slot
        if cells is not None:
            self.pending = self.own_pending + sum([tokens[slot] for tokens in cells.others_pending])
            self.running = self.own_running + sum([streams[slot] for streams in cells.others_running])
            self.prefilled = self.own_prefilled + sum([tokens[slot] for tokens in cells.others_prefilled])
            self.context = self.own_context + sum([tokens[slot] for tokens in cells.others_context])

    @property
    def cells_read(self) -> int:
        """How many cells of other workers `refresh` reads."""
        return 4 * len(self._cells.others_pending) if self._cells is not None else 0

    def __repr__(self) -> str:
        return f"<Work pending={self.pending} running={self.running} context={self.context} {self.speed!r}>"


class Stream:
    """One request at one endpoint: told what happens to it, it tells the endpoint's `Work`. `end` is due exactly once,
    however the request ends; `first` at its first token, if one comes."""

    __slots__ = ("_area", "_before", "_first", "_prefilled", "began", "context", "tokens", "work")

    def __init__(self, work: Work, tokens: int, context: int, now: float) -> None:
        self.work = work
        self.tokens = tokens  # to prefill
        self.context = context  # tokens that it will hold while it runs
        self.began = now
        self._before = work.ahead(now) + tokens  # what had to be prefilled until its first token
        self._first = -inf
        self._area = 0.0
        self._prefilled = 0

    def first(self, now: float) -> None:
        """The first token came: the prompt is prefilled, the stream runs. A second call changes nothing."""
        if self._first > -inf:
            return
        work = self.work
        work.prefilled += self.tokens
        work.own_prefilled += self.tokens
        self._area = work.area(now)
        self._prefilled = work.prefilled
        self._first = now
        work._leave(self, now)
        work._add(-self.tokens, 1, self.context)
        work.speed.add_first(self._before, now - self.began, now)

    def presume(self, now: float) -> None:
        """Nobody sees its first token, which must have come by now: it runs. Nothing is learned of it."""
        if self._first > -inf:
            return
        work = self.work
        work.prefilled += self.tokens
        self._first = now
        work._leave(self, now)
        work._add(-self.tokens, 1, self.context)

    def learn_whole(self, now: float, tokens: int) -> None:
        """All of an answer of so many tokens came at one time, and no first token was seen. It took so many times what
        was expected: both of the endpoint's lines are taken to be off by as much."""
        work = self.work
        first = work.b + work.a * self._before
        context = work.context + work.strange_context
        pace = work.e + work.d * context
        expected = first + work.stretch * pace * tokens
        if expected > 0.0:
            factor = (now - self.began) / expected
            work.speed.add_first(self._before, factor * first, now)
            work.speed.add_stream(context, factor * pace, tokens, now)

    def end(self, now: float, tokens: int = 0, *, is_failed: bool = False) -> None:
        """It is over, after `tokens` of output (0: nobody counted)."""
        work = self.work
        if self._first == -inf:
            work._leave(self, now)
            work._add(-self.tokens, 0, 0)
            return
        area = work.area(now)
        work._add(0, -1, -self.context)
        seconds = now - self._first
        if not is_failed and tokens > 1 and seconds > 0.0:
            # What the prefills of others took meanwhile says nothing of the pace.
            decoding = max(seconds - work.a * (work.prefilled - self._prefilled), (1.0 - BUSIEST) * seconds)
            work.speed.add_stream((area - self._area) / seconds, decoding / (tokens - 1), tokens, now)

    def __repr__(self) -> str:
        return f"<Stream of {self.tokens} tokens {'running' if self._first > -inf else 'pending'}>"
