"""How far the bars that `llm` misses are within reach of anybody: `python -m tests.sim.bounds`, some three minutes.

Each bound is kinder than the truth: engines that never let anybody wait, requests that come evenly, caches that end
nowhere, homes given out by one who knows every user beforehand.
"""

from collections import Counter
from collections.abc import Sequence
from random import Random
from statistics import mean
from typing import Any

from gateway.core.endpoint import Endpoint
from gateway.core.pick.prompted import Prompted
from gateway.core.prompt import Prompt
from tests.sim.engine import CHUNK, H100, Profile
from tests.sim.measure import figures
from tests.sim.scenarios import SCENARIOS
from tests.sim.world import FIRST_LATE, Reading, World

SEEDS = range(1, 6)


def idle(profile: Profile, new: int, cached: int = 0) -> float:
    """Seconds until a prompt's first token, alone."""
    seconds, kept = 0.0, cached
    while new > 0:
        size = min(CHUNK, new)
        seconds += profile.fixed + profile.prefill * size + profile.context * kept
        new, kept = new - size, kept + size
    return seconds


def mooncake(seed: int) -> float:
    """The share of first tokens within 2 s if nobody waits, and one endless cache has all that came before."""
    scenario = SCENARIOS["mooncake"]
    world = World(scenario.fleet, "lpwl", seed, block=scenario.block)
    seen: set[int] = set()
    good = []
    for _, request in scenario.traffic(world, Random(seed), scenario.seconds):
        bound = (request.prompt - 1) // scenario.block
        known = next((n for n, block in enumerate(request.blocks[:bound]) if block not in seen), bound)
        known = min(known, len(request.blocks)) * scenario.block
        seen.update(request.blocks)
        good.append(idle(H100, request.prompt - known, known) <= FIRST_LATE)
    return mean(good)


# --- the heavy tail: a fluid, divided among eight engines as is best --------------------------------------------------

PROMPTS, RATES = (200, 2000, 44_000), (99.0, 9.9, 1.1)
OUTPUT = 250


def present(rates: Sequence[float]) -> float:
    """How many requests are at an engine that is sent so many of each kind in a second; inf: ever more.

    A second holds the prefills and as many steps as fit beside them, each with one token for everybody."""
    read = [sum(range(0, prompt, CHUNK)) for prompt in PROMPTS]
    busy = sum(
        [
            r * (H100.prefill * prompt + H100.context * kept)
            for r, prompt, kept in zip(rates, PROMPTS, read, strict=True)
        ]
    )
    held = sum([r * (prompt + OUTPUT / 2) for r, prompt in zip(rates, PROMPTS, strict=True)]) * OUTPUT
    streams = sum(rates) * OUTPUT
    share = (H100.decode * streams + H100.context * held) / (1.0 - busy) if busy < 1.0 else 1.0
    if share >= 1.0:
        return float("inf")
    token = H100.fixed / (1.0 - busy) / (1.0 - share)
    if held * token > H100.kv:
        return float("inf")
    return streams * token + sum([r * idle(H100, prompt) for r, prompt in zip(rates, PROMPTS, strict=True)])


def heavy_tail(tries: int = 40_000) -> float:
    """The least mean of whole answers (Little's law) that moving work about finds, from a few divisions."""
    dice, found = Random(1), []
    for long in (2, 3, 3, 4, 4):  # engines that begin with the long prompts
        spread = [[0.0] * long + [RATES[0] / (8 - long)] * (8 - long), [RATES[1] / 8] * 8]
        shares = [*spread, [RATES[2] / long] * long + [0.0] * (8 - long)]
        engines = [[shares[kind][n] for kind in range(3)] for n in range(8)]
        sizes = [present(rates) for rates in engines]
        for _ in range(tries):
            kind, (one, other) = dice.randrange(3), dice.sample(range(8), 2)
            moved = engines[one][kind] * (1.0 if dice.random() < 0.1 else 0.5 * dice.random())
            engines[one][kind] -= moved
            engines[other][kind] += moved
            now = present(engines[one]), present(engines[other])
            if sum(now) < sizes[one] + sizes[other]:
                sizes[one], sizes[other] = now
            else:
                engines[one][kind] += moved
                engines[other][kind] -= moved
        found.append(sum(sizes) / sum(RATES))
    return min(found)


# --- sessions ---------------------------------------------------------------------------------------------------------


class Homes(Prompted):
    """Each system prompt has one home for ever, and all have as many users as one another."""

    __slots__ = ("_home",)

    def __init__(self, endpoints: Sequence[Endpoint], first: Sequence[Any]) -> None:
        super().__init__(endpoints)
        users = Counter(request.chain[0] for _, request in first)
        loads = Counter(dict.fromkeys(endpoints, 0))
        self._home = {}
        for system, count in users.most_common():
            self._home[system] = home = min(endpoints, key=lambda endpoint: loads[endpoint])
            loads[home] += count

    def choose(self, candidates: Sequence[Endpoint], prompt: Prompt, now: float, rng: Random) -> Endpoint:
        return self._home[prompt.chain[0]]


def sessions(seed: int) -> float:
    scenario = SCENARIOS["sessions"]
    world = World(scenario.fleet, "llm", seed, block=scenario.block)
    first = scenario.traffic(world, Random(seed), scenario.seconds)
    world.reader = Homes(world.endpoints, first)
    world.pool.policy = Reading(world.reader)
    world.run(first)
    return figures(world).goodput


def main() -> None:
    print(f"mooncake: goodput with endless caches and no waiting {mean(map(mooncake, SEEDS)):.4f}")
    print(f"sessions: goodput with homes given out beforehand {mean(map(sessions, SEEDS)):.4f}")
    print(f"heavy tail: mean of whole answers, as a fluid divided as is best {heavy_tail():.2f} s")


if __name__ == "__main__":
    main()
