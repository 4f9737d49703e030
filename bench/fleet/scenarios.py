"""The scenarios: eight engines, and requests at their times. Seconds here are the engines'.

They are those of `tests/sim`, in small; every balancer gets the same requests at the same moments.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from bench.fleet.traces import CODE, CONVERSATION, azure, mooncake

TTFT = 2.0  # seconds: a request is good whose first token comes within these,
TPOT = 0.06  # and each further one within these on average


class Ask(NamedTuple):
    """One request: its prompt is a shared beginning and an own end, each a name and a length in tokens."""

    at: float
    parts: tuple[tuple[str, int], ...]
    output: int

    @property
    def prompt(self) -> int:
        return sum(tokens for _, tokens in self.parts)


class Engine(NamedTuple):
    profile: str
    slower: float = 1.0  # so many times
    is_failing: bool = False
    kv: int = 0  # tokens of cache; 0: the profile's


class Scenario(NamedTuple):
    title: str
    engines: Sequence[Engine]
    traffic: Callable[[Random, float], list[Ask]]
    late: int = 0  # of the engines, the last ones: they join halfway, with cold caches


def poisson(dice: Random, rate: float, seconds: float) -> list[float]:
    times, now = [], 0.0
    while (now := now + dice.expovariate(rate)) < seconds:
        times.append(now)
    return times


def conversations(rate: float) -> Callable[[Random, float], list[Ask]]:
    """Lengths of the Azure conversation trace, at random moments."""

    def traffic(dice: Random, seconds: float) -> list[Ask]:
        rows = azure(CONVERSATION)
        drawn = [(at, dice.choice(rows)) for at in poisson(dice, rate, seconds)]
        return [Ask(at, ((f"own {n}", row.prompt),), row.output) for n, (at, row) in enumerate(drawn)]

    return traffic


def heavy_tail(dice: Random, seconds: float) -> list[Ask]:
    """90 % of 200 tokens, 9 % of 2,000, 1 % of 24,000 to 64,000; outputs of 250 on average."""
    found = []
    for number, at in enumerate(poisson(dice, 110.0, seconds)):
        kind = dice.random()
        prompt = 200 if kind < 0.9 else 2000 if kind < 0.99 else dice.randint(24_000, 64_000)
        found.append(Ask(at, ((f"own {number}", prompt),), 1 + int(dice.expovariate(1 / 250))))
    return found


def zipf(dice: Random, seconds: float) -> list[Ask]:
    """One of 200 beginnings of 4,000 tokens, by Zipf's law with exponent 1.2, and a short question."""
    rows = azure(CONVERSATION)
    weights = [1.0 / (rank + 1) ** 1.2 for rank in range(200)]
    found = []
    for number, at in enumerate(poisson(dice, 70.0, seconds)):
        kind = dice.choices(range(200), weights)[0]
        parts = ((f"prefix {kind}", 4000), (f"own {number}", dice.randint(20, 300)))
        found.append(Ask(at, parts, dice.choice(rows).output))
    return found


def sessions(dice: Random, seconds: float) -> list[Ask]:
    """Users who read and think for ten seconds between turns; each turn's prompt is the whole conversation so far,
    behind one of 60 system prompts of 2,000 tokens. Their turns come at their times, whenever the answer came."""
    found = []
    for user in range(300):
        at = dice.uniform(-40.0, 12.0)
        parts = [(f"system {dice.randrange(60)}", 2000)]
        turn = 0
        while at < seconds:
            parts.append((f"user {user} turn {turn}", dice.randint(50, 400)))
            output = 1 + int(dice.expovariate(1 / 200))
            if at >= 0.0:
                found.append(Ask(at, tuple(parts), output))
            parts.append((f"answer {user} turn {turn}", output))
            turn += 1
            at += output * 0.02 + 2.0 + dice.expovariate(1 / 10.0)
    return sorted(found)


def burst(dice: Random, seconds: float) -> list[Ask]:
    """A part of the Azure code trace, four times as fast, that has more than its share of requests."""
    rows = azure(CODE)
    starts = [dice.uniform(0.0, rows[-1].at - seconds * 4) for _ in range(20)]
    parts = [[row for row in rows if start <= row.at < start + seconds * 4] for start in starts]
    busiest = max(parts, key=len)
    return [Ask((row.at - busiest[0].at) / 4, ((f"own {n}", row.prompt),), row.output) for n, row in enumerate(busiest)]


def long_conversations(dice: Random, seconds: float) -> list[Ask]:
    """A part of Mooncake's trace, 1.8 times as fast; its times are multiples of 3 s: requests are spread over these."""
    rows, speed, size = mooncake(), 1.8, 512
    start = dice.uniform(0.0, rows[-1].at - seconds * speed)
    found = []
    for number, row in enumerate(rows):
        at = (row.at + dice.uniform(0.0, 3.0) - start) / speed
        if 0.0 <= at < seconds:
            whole = [(f"block {block}", size) for block in row.blocks[: row.prompt // size]]
            rest = row.prompt - len(whole) * size
            found.append(Ask(at, (*whole, *([(f"own {number}", rest)] if rest else [])), max(row.output, 1)))
    return sorted(found)


_H100 = Engine("h100")
_A100 = Engine("a100", kv=210_000)  # half the cache for half the users of `tests/sim`
SCENARIOS = {
    "mixed": Scenario(
        "4 H100 + 4 L40S, conversations, 45/s", [_H100] * 4 + [Engine("l40s")] * 4, conversations(45.0)
    ),
    "tail": Scenario("heavy tail, 8 H100, 110/s", [_H100] * 8, heavy_tail),
    "sessions": Scenario("sessions, system prompts of 2,000 tokens, 8 A100", [_A100] * 8, sessions),
    "zipf": Scenario("hot prefixes by Zipf's law, 8 H100, 70/s", [_H100] * 8, zipf),
    "mooncake": Scenario("Mooncake conversations x 1.8, 8 H100", [_H100] * 8, long_conversations),
    "burst": Scenario("burst, Azure code x 4, 8 H100", [_H100] * 8, burst),
    "fails": Scenario(
        "one of 8 H100 fails at once, 45/s", [Engine("h100", is_failing=True)] + [_H100] * 7, conversations(45.0)
    ),
    "slow": Scenario(
        "one of 8 H100 six times slower, 80/s", [Engine("h100", slower=6.0)] + [_H100] * 7, conversations(80.0)
    ),
    "scale-out": Scenario("4 to 8 H100, cold, 40/s", [_H100] * 8, conversations(40.0), late=4),
}  # fmt: skip
