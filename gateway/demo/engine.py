"""A GPU server as arithmetic: continuous batching, chunked prefill, a KV cache with reuse of prefixes.

What a step takes is what was fitted to real ones: a fixed part, and so much for each token that is prefilled, each
sequence that decodes, and each token of context that it reads. Nothing here knows a clock: the one who drives it asks
for a step, lets its seconds pass, and ends it.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

CHUNK = 2048  # tokens prefilled in one step at most: vLLM's max_num_batched_tokens for online serving
SEQUENCES = 256  # that run at one time: vLLM's max_num_seqs
BLOCK = 64  # tokens of a prefix that are kept or dropped together


class Profile(NamedTuple):
    """Of an 8B model: seconds, and tokens of KV cache."""

    fixed: float
    prefill: float  # for each token
    decode: float  # for each sequence
    context: float  # for each token in the cache that a decoding sequence reads
    kv: int


PROFILES = {
    "h100": Profile(7e-3, 36e-6, 4e-6, 70e-9, 420_000),
    "a100": Profile(11.2e-3, 130e-6, 4e-6, 115e-9, 420_000),
    "l40s": Profile(26e-3, 138e-6, 4e-6, 270e-9, 200_000),
}


class Job:
    """One sequence. `blocks` are hashes of its prompt's whole blocks, each over all before it."""

    __slots__ = ("blocks", "generated", "on_token", "output", "pinned", "prefilled", "prompt", "target")

    def __init__(self, prompt: int, output: int, blocks: Sequence[int], on_token: Callable[["Job"], None]) -> None:
        self.prompt = prompt  # tokens
        self.output = output  # tokens it will have
        self.blocks = blocks
        self.on_token = on_token
        self.pinned = 0  # blocks that it shares with the cache
        self.target = prompt  # tokens to have in the cache before it decodes
        self.prefilled = 0
        self.generated = 0

    @property
    def is_done(self) -> bool:
        return self.generated >= self.output

    @property
    def is_decoding(self) -> bool:
        return self.prefilled >= self.target

    @property
    def context(self) -> int:
        """Tokens in the cache that it reads."""
        return self.prefilled if self.prefilled < self.target else self.prompt + self.generated

    @property
    def own(self) -> int:
        """Tokens that it holds beside the blocks that it shares."""
        return self.context - self.pinned * BLOCK

    def __repr__(self) -> str:
        return f"<Job {self.prefilled}/{self.target} prefilled, {self.generated}/{self.output} generated>"


class Engine:
    """The batch, who waits to get into it, and the cache."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self.pins: dict[int, int] = {}  # blocks in use, and how many sequences use each
        self.kept: dict[int, None] = {}  # blocks that nobody uses, the longest unused first
        self.chunks: list[tuple[Job, int]] = []  # what the step under way prefills
        self.decoding: list[Job] = []  # and who decodes in it
        self.preempted = 0  # so often a sequence gave its memory back and began anew
        self.prefix_queries = 0  # tokens looked for in the cache
        self.prefix_hits = 0  # and found

    def add(self, job: Job) -> None:
        self.waiting.append(job)

    def remove(self, job: Job) -> None:
        """Its client left."""
        job.on_token = _ignore
        if job in self.running:
            self._release(job)
            self.running.remove(job)
        elif job in self.waiting:
            self.waiting.remove(job)

    @property
    def held(self) -> int:
        """Tokens of the cache that running sequences hold."""
        return sum([job.own for job in self.running]) + len(self.pins) * BLOCK

    @property
    def usage(self) -> float:
        """The share of the cache that is held; what is kept for reuse counts as free, as vLLM counts it."""
        return min(1.0, self.held / self.profile.kv)

    def begin(self) -> float:
        """Compose the next step -> the seconds it takes; 0.0 if there is nothing to do."""
        self._make_room()
        self.decoding = [job for job in self.running if job.is_decoding]
        budget = CHUNK
        self.chunks = []
        for job in self._prefilling():
            if budget <= 0:
                break
            size = min(job.target - job.prefilled, budget)
            budget -= size
            self.chunks.append((job, size))
        if not self.decoding and not self.chunks:
            return 0.0
        profile = self.profile
        context = sum(job.context for job in self.decoding) + sum(job.prefilled for job, _ in self.chunks)
        return (
            profile.fixed
            + profile.prefill * (CHUNK - budget)
            + profile.decode * len(self.decoding)
            + profile.context * context
        )

    def end(self) -> None:
        """The step is over: whoever decoded, or was prefilled to the end, has one token more."""
        fresh = []
        for job, size in self.chunks:
            if job not in self.running:  # its client left meanwhile
                continue
            job.prefilled += size
            if job.is_decoding:
                self._pin(job, job.blocks[job.pinned :])  # from now on others find them
                fresh.append(job)
        for job in [*self.decoding, *fresh]:
            job.generated += 1
            job.on_token(job)
        for job in self.running:
            if job.is_done:
                self._release(job)
        self.running = [job for job in self.running if not job.is_done]
        self._trim()

    def _prefilling(self) -> Iterator[Job]:
        """First those that have begun, then those that get in while there is room for their prompt."""
        yield from [job for job in self.running if not job.is_decoding]
        held = self.held
        while self.waiting and len(self.running) < SEQUENCES:
            job = self.waiting[0]
            found = self._found(job)
            new = job.target - sum(block in self.pins for block in found) * BLOCK
            if self.running and held + new > self.profile.kv:
                return  # in the order of arrival, so that a long prompt does not wait for ever
            self.waiting.popleft()
            self._pin(job, found)
            job.prefilled = len(found) * BLOCK
            held += new
            self.prefix_queries += job.target
            self.prefix_hits += job.prefilled
            self.running.append(job)
            yield job

    def _found(self, job: Job) -> Sequence[int]:
        """The blocks of its prompt that the cache has. The last token is always computed: without it there is nothing
        to sample from."""
        bound = (job.target - 1) // BLOCK
        for count, block in enumerate(job.blocks[:bound]):
            if block not in self.pins and block not in self.kept:
                return job.blocks[:count]
        return job.blocks[:bound]

    def _pin(self, job: Job, blocks: Sequence[int]) -> None:
        for block in blocks:
            self.kept.pop(block, None)
            self.pins[block] = self.pins.get(block, 0) + 1
        job.pinned += len(blocks)

    def _release(self, job: Job) -> None:
        """Its blocks are kept where nobody else uses them; the first of a prompt are the last to go."""
        for block in reversed(job.blocks[: job.pinned]):
            self.pins[block] -= 1
            if not self.pins[block]:
                del self.pins[block]
                self.kept[block] = None
        job.pinned = 0

    def _trim(self) -> None:
        """What sequences hold pushes out what is merely kept."""
        bound = max(0, self.profile.kv - self.held) // BLOCK
        surplus = len(self.kept) - bound
        if surplus > 0:
            for block in list(islice(self.kept, surplus)):
                del self.kept[block]

    def _make_room(self) -> None:
        """Where the cache is full, the youngest sequence begins anew later: it is prefilled with what it has said."""
        while len(self.running) > 1 and self.held > self.profile.kv:
            job = self.running.pop()
            self._release(job)
            job.target = job.prompt + job.generated
            job.prefilled = 0
            self.preempted += 1
            self.waiting.appendleft(job)

    def __repr__(self) -> str:
        return f"<Engine {len(self.running)} running, {len(self.waiting)} waiting, {self.usage:.0%} of its cache>"


def _ignore(job: Job) -> None:
    """Nobody waits for its tokens."""
