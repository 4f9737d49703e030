"""A GPU server as arithmetic: continuous batching, chunked prefill, a KV cache that reuses prefixes.

A step takes `fixed + prefill x tokens + decode x sequences + context x tokens in the cache`. Steps in which nobody is
prefilled are many and alike, so they are taken in one leap, to the next end of a sequence or the next arrival.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from math import ceil, sqrt
from typing import NamedTuple

CHUNK = 2048  # tokens prefilled in one step at most
SEQUENCES = 256  # that run at one time


class Profile(NamedTuple):
    """Of an 8B model: seconds, and tokens of KV cache."""

    fixed: float
    prefill: float
    decode: float
    context: float
    kv: int

    def slowed(self, factor: float) -> "Profile":
        return Profile(self.fixed * factor, self.prefill * factor, self.decode * factor, self.context * factor, self.kv)


H100 = Profile(7e-3, 36e-6, 4e-6, 70e-9, 420_000)
A100 = Profile(11.2e-3, 130e-6, 4e-6, 115e-9, 420_000)
L40S = Profile(26e-3, 138e-6, 4e-6, 270e-9, 200_000)


class Job:
    """One sequence. `blocks` name the prompt's whole blocks, each with all before it."""

    __slots__ = ("blocks", "ends", "generated", "is_begun", "on_end", "on_first", "output", "pinned", "prefilled",
                 "prompt", "rank", "target")  # fmt: skip

    def __init__(self, prompt: int, output: int, blocks: Sequence[int]) -> None:
        self.prompt = prompt  # tokens
        self.output = output
        self.blocks = blocks
        self.target = prompt  # tokens to have in the cache before it decodes
        self.prefilled = 0
        self.generated = 0
        self.pinned = 0  # blocks that it shares with the cache
        self.ends = 0  # at which of the engine's steps it is done
        self.rank = 0
        self.is_begun = False
        self.on_first: Callable[[float], None] = _ignore
        self.on_end: Callable[[float], None] = _ignore


def _ignore(now: float) -> None:
    """Nobody waits."""


class Engine:
    __slots__ = ("_after", "_begun", "_chunks", "_context", "_epoch", "_held", "_leap", "_ranks", "_step", "block",
                 "decoding", "kept", "pins", "preempted", "prefilling", "profile", "waiting")  # fmt: skip

    def __init__(
        self, profile: Profile, block: int, after: Callable[[float, Callable[[float, int], None], int], None]
    ) -> None:
        """`after(time, call, argument)` has `call(time, argument)` called then."""
        self.profile = profile
        self.block = block  # tokens of a prefix that are kept or dropped together
        self._after = after
        self.waiting: deque[Job] = deque()
        self.prefilling: list[Job] = []
        self.decoding: list[tuple[int, int, Job]] = []  # heap: (the step at which it ends, rank, job)
        self.pins: dict[int, int] = {}  # blocks in use, and how many sequences use each
        self.kept: OrderedDict[int, None] = OrderedDict()  # blocks that nobody uses, the longest unused first
        self.preempted = 0
        self._ranks = 0
        self._context = 0  # tokens of the decoding sequences
        self._held = 0  # tokens of the cache in use
        self._step = 0
        self._leap = 0  # steps under way; 0: idle
        self._begun = 0.0
        self._chunks: list[tuple[Job, int]] = []
        self._epoch = 0  # of the steps under way: a call for another is void

    def add(self, job: Job, now: float) -> None:
        self._ranks += 1
        job.rank = self._ranks
        self.waiting.append(job)
        if not self._leap:
            self._start(now)
        elif self._leap > 1:
            self._cut(now)

    @property
    def usage(self) -> float:
        return min(1.0, self._held / self.profile.kv)

    # --- steps ---

    def _start(self, now: float) -> None:
        self._make_room()
        chunks, budget = self._compose()
        self._chunks = chunks
        decoding = len(self.decoding)
        self._begun = now
        if chunks:
            profile = self.profile
            self._leap = 1
            read = self._context + sum([job.prefilled for job, _ in chunks])
            seconds = (
                profile.fixed + profile.prefill * (CHUNK - budget) + profile.decode * decoding + profile.context * read
            )
        elif decoding:
            room = (self.profile.kv - self._held) // decoding
            self._leap = max(1, min(self.decoding[0][0] - self._step, room))
            seconds = self._seconds(self._leap)
        else:
            self._leap = 0
            return
        self._epoch += 1
        self._after(now + seconds, self._end, self._epoch)

    def _seconds(self, steps: int) -> float:
        """Of so many steps in which the same sequences decode, and nothing else."""
        profile, count = self.profile, len(self.decoding)
        first = profile.fixed + profile.decode * count + profile.context * self._context
        return steps * first + profile.context * count * steps * (steps - 1) / 2

    def _cut(self, now: float) -> None:
        """Somebody came: the leap ends with the step under way."""
        profile, count = self.profile, len(self.decoding)
        first = profile.fixed + profile.decode * count + profile.context * self._context
        half = profile.context * count / 2
        linear = first - half
        past = now - self._begun
        steps = ceil((sqrt(linear * linear + 4 * half * past) - linear) / (2 * half) - 1e-9)
        if steps < self._leap:
            self._leap = max(steps, 1)
            self._epoch += 1
            self._after(max(now, self._begun + self._seconds(self._leap)), self._end, self._epoch)

    def _end(self, now: float, epoch: int) -> None:
        """The steps are over: whoever decoded has as many tokens more, whoever was prefilled to the end its first."""
        if epoch != self._epoch:
            return
        decoding, leap = self.decoding, self._leap
        self._step += leap
        self._context += leap * len(decoding)
        self._held += leap * len(decoding)
        begun, ended = [], []
        while decoding and decoding[0][0] <= self._step:
            job = heappop(decoding)[2]
            self._release(job, job.prompt + job.output)
            ended.append(job)
        for job, size in self._chunks:
            job.prefilled += size
            if job.prefilled >= job.target:
                self.prefilling.remove(job)
                self._publish(job)
                if not job.is_begun:
                    job.is_begun = True
                    begun.append(job)
                job.generated += 1
                self._held += 1
                if job.generated >= job.output:
                    self._context += job.target + 1
                    self._release(job, job.target + 1)
                    ended.append(job)
                else:
                    self._context += job.target + 1
                    heappush(decoding, (self._step + job.output - job.generated, job.rank, job))
        self._trim()
        self._start(now)
        for job in begun:
            job.on_first(now)
        for job in ended:
            job.on_end(now)

    def _compose(self) -> tuple[list[tuple[Job, int]], int]:
        """What the next step prefills: first what has begun, then what gets in, in the order of arrival."""
        chunks: list[tuple[Job, int]] = []
        budget = CHUNK
        for job in self.prefilling:
            if budget <= 0:
                return chunks, budget
            size = min(job.target - job.prefilled, budget)
            budget -= size
            chunks.append((job, size))
        while self.waiting and budget > 0 and len(self.prefilling) + len(self.decoding) < SEQUENCES:
            job = self.waiting[0]
            found = self._found(job)
            new = job.target - sum([block in self.pins for block in found]) * self.block
            if (self.prefilling or self.decoding) and self._held + new > self.profile.kv:
                break
            self.waiting.popleft()
            self._admit(job, found)
            size = min(job.target - job.prefilled, budget)
            budget -= size
            chunks.append((job, size))
        return chunks, budget

    # --- the cache ---

    def _found(self, job: Job) -> Sequence[int]:
        """The blocks of its prompt that the cache has. The last token is always computed."""
        bound = (job.target - 1) // self.block
        pins, kept = self.pins, self.kept
        count = 0
        for block in job.blocks[:bound]:
            if block not in pins and block not in kept:
                break
            count += 1
        return job.blocks[:count]

    def _admit(self, job: Job, found: Sequence[int]) -> None:
        pins, size = self.pins, self.block
        for block in found:
            if block in pins:
                pins[block] += 1
            else:
                self.kept.pop(block, None)
                pins[block] = 1
                self._held += size
        job.pinned = len(found)
        job.prefilled = job.pinned * size
        self._held += job.target - job.prefilled  # all at once, so that two long prompts do not fight for room
        self.prefilling.append(job)
        self._trim()

    def _publish(self, job: Job) -> None:
        """From now on others find its blocks."""
        pins, size = self.pins, self.block
        for block in job.blocks[job.pinned :]:
            if block in pins:
                pins[block] += 1
                self._held -= size
            else:
                pins[block] = 1
                self.kept.pop(block, None)
        job.pinned = len(job.blocks)

    def _release(self, job: Job, context: int) -> None:
        """A decoding job's: its blocks are kept where nobody else uses them; the last of a prompt go first."""
        pins, kept, size = self.pins, self.kept, self.block
        self._context -= context
        self._held -= context - job.pinned * size
        for block in reversed(job.blocks[: job.pinned]):
            left = pins[block] - 1
            if left:
                pins[block] = left
            else:
                del pins[block]
                kept[block] = None
                self._held -= size
        job.pinned = 0

    def _trim(self) -> None:
        """What sequences hold pushes out what is merely kept."""
        bound = max(0, self.profile.kv - self._held) // self.block
        kept = self.kept
        while len(kept) > bound:
            kept.popitem(last=False)

    def _make_room(self) -> None:
        """Where the cache is full, the youngest sequence begins anew later: it is prefilled with what it has said."""
        while len(self.decoding) > 1 and self._held + len(self.decoding) > self.profile.kv:
            entry = max(self.decoding, key=lambda each: each[1])
            self.decoding.remove(entry)
            heapify(self.decoding)
            job = entry[2]
            job.generated = job.output - (entry[0] - self._step)
            self._release(job, job.prompt + job.generated)
            job.target = job.prompt + job.generated
            job.prefilled = 0
            self.preempted += 1
            self.waiting.appendleft(job)
            self._trim()

    def __repr__(self) -> str:
        running = len(self.decoding) + len(self.prefilling)
        return f"<Engine {running} running, {len(self.waiting)} waiting, {self.usage:.0%} of its cache>"
