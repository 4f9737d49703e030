"""The scenarios: fleets and traffic, each from a seed that it shares with every policy that is compared.

Open loops arrive at their times whatever becomes of them; sessions are closed loops, whose next turn comes a while
after the answer to the one before.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from gateway.core.endpoint import Health
from tests.sim import traces
from tests.sim.engine import A100, H100, L40S, Profile
from tests.sim.world import Request, World

Arrivals = list[tuple[float, Request]]


class Scenario(NamedTuple):
    title: str
    fleet: Sequence[Profile]
    traffic: Callable[[World, Random, float], Arrivals]  # (world, dice, seconds)
    seconds: float
    rivals: tuple[str, ...]  # whom `llm` is measured beside
    trace: str = ""
    block: int = 64  # tokens of the engines' blocks
    attempts: int = 1
    weights: tuple[float, ...] = ()  # for the policies that need to be told


def poisson(dice: Random, rate: float, seconds: float) -> list[float]:
    times, now = [], 0.0
    while (now := now + dice.expovariate(rate)) < seconds:
        times.append(now)
    return times


# --- open loops -------------------------------------------------------------------------------------------------------


def conversations(rate: float) -> Callable[[World, Random, float], Arrivals]:
    """Lengths of the Azure conversation trace, at random moments."""

    def traffic(world: World, dice: Random, seconds: float) -> Arrivals:
        rows = traces.azure(traces.AZURE_CONV)
        drawn = ((at, dice.choice(rows)) for at in poisson(dice, rate, seconds))
        return [(at, Request(row.prompt, row.output)) for at, row in drawn]

    return traffic


def heavy_tail(world: World, dice: Random, seconds: float) -> Arrivals:
    """90 % of 200 tokens, 9 % of 2,000, 1 % of 24,000 to 64,000; outputs of 250 on average."""
    found = []
    for at in poisson(dice, 110.0, seconds):
        kind = dice.random()
        prompt = 200 if kind < 0.9 else 2000 if kind < 0.99 else dice.randint(24_000, 64_000)
        found.append((at, Request(prompt, 1 + int(dice.expovariate(1 / 250)))))
    return found


def mooncake(world: World, dice: Random, seconds: float) -> Arrivals:
    """A part of the trace, 1.8 times as fast; arrivals are quantised to 3 s there, so they are spread over these."""
    rows, speed = traces.mooncake(), 1.8
    start = dice.uniform(0.0, rows[-1].at - seconds * speed)
    found = []
    for row in rows:
        at = row.at + dice.uniform(0.0, 3.0) - start
        if 0.0 <= at < seconds * speed:
            chain = [8 * block + part for block in row.blocks for part in range(8)][: row.prompt // 64]
            found.append((at / speed, Request(row.prompt, row.output, chain, row.blocks[: row.prompt // 512])))
    return sorted(found, key=lambda each: each[0])


def zipf(world: World, dice: Random, seconds: float) -> Arrivals:
    """One of 200 prefixes of 4,000 tokens, by Zipf's law with exponent 1.2, and a short question."""
    rows = traces.azure(traces.AZURE_CONV)
    weights = [1.0 / (rank + 1) ** 1.2 for rank in range(200)]
    prefixes = [[dice.getrandbits(60) for _ in range(4000 // 64)] for _ in weights]
    found = []
    for at in poisson(dice, 70.0, seconds):
        kind = dice.choices(range(200), weights)[0]
        request = Request(4000 + dice.randint(20, 300), dice.choice(rows).output, prefixes[kind], prefixes[kind])
        request.head = b"prefix %d" % kind
        found.append((at, request))
    return found


def burst(world: World, dice: Random, seconds: float) -> Arrivals:
    """A part of the Azure code trace, four times as fast."""
    rows = traces.azure(traces.AZURE_CODE)
    start = dice.uniform(0.0, max(rows[-1].at - seconds * 4, 0.0))
    chosen = [row for row in rows if start <= row.at < start + seconds * 4]
    return [((row.at - start) / 4, Request(row.prompt, row.output)) for row in chosen]


# --- closed loops -----------------------------------------------------------------------------------------------------


class Session:
    """A user who reads, thinks and asks again; each turn's prompt is the whole conversation so far."""

    def __init__(self, world: World, dice: Random, system: Sequence[int], number: int, end: float) -> None:
        self.world = world
        self.dice = dice
        self.blocks = list(system)
        self.tokens = len(system) * 64
        self.number = number
        self.end = end
        self.turns = 0

    def turn(self) -> Request:
        dice = self.dice
        self.turns += 1
        self.grow(dice.randint(*QUESTION))
        request = Request(self.tokens, 1 + int(dice.expovariate(1 / ANSWER)), list(self.blocks), list(self.blocks))
        request.user = f"user {self.number}"
        request.head = b"%d" % self.blocks[0]
        request.on_done = self.done
        return request

    def grow(self, tokens: int) -> None:
        self.tokens += tokens
        while len(self.blocks) < self.tokens // 64:
            self.blocks.append(self.dice.getrandbits(60))

    def done(self, request: Request, now: float) -> None:
        self.grow(request.output)
        if self.turns >= TURNS:
            self.blocks, self.tokens, self.turns = self.blocks[:SYSTEM], SYSTEM * 64, 0
        again = now + self.dice.expovariate(1 / THINK)
        if again < self.end:
            self.world.after(again, self.ask, None)

    def ask(self, now: float, _: None) -> None:
        self.world.arrive(now, self.turn())


SYSTEM = 31  # blocks: 2,000 tokens
TURNS = 8
QUESTION = (200, 1200)  # tokens
ANSWER = 100  # on average
THINK = 15.0  # seconds, on average
USERS = 680  # for which SGLang's rule has the goodput that was measured elsewhere, 0.64
SYSTEMS = 500


def sessions(world: World, dice: Random, seconds: float) -> Arrivals:
    systems = [[dice.getrandbits(60) for _ in range(SYSTEM)] for _ in range(SYSTEMS)]
    found = []
    for number in range(USERS):
        session = Session(world, Random(dice.getrandbits(60)), dice.choice(systems), number, seconds)
        found.append((dice.uniform(0.0, 20.0), session))
    return [(at, session.turn()) for at, session in sorted(found, key=lambda each: each[0])]


# --- what goes wrong --------------------------------------------------------------------------------------------------


def one_fails(world: World, dice: Random, seconds: float) -> Arrivals:
    world.failing.add(dice.randrange(8))
    return conversations(70.0)(world, dice, seconds)


def scale_out(world: World, dice: Random, seconds: float) -> Arrivals:
    """Four more endpoints come up in the middle."""
    for place in range(4, 8):
        world.set_health(place, Health.DOWN, 0.0)
        world.after(seconds / 2, lambda now, place: world.set_health(place, Health.UP, now), place)
    return conversations(40.0)(world, dice, seconds)


SCENARIOS = {
    "mixed fleet": Scenario(
        "4 x H100 + 4 x L40S, Azure conversation lengths, 45 rps",
        [H100] * 4 + [L40S] * 4,
        conversations(45.0),
        180.0,
        ("weighted_least_connections", "least_connections", "round_robin"),
        traces.AZURE_CONV,
        weights=(4.0, 4.0, 4.0, 4.0, 1.0, 1.0, 1.0, 1.0),
    ),
    "heavy tail": Scenario(
        "heavy tail (90 % 200, 9 % 2k, 1 % 24-64k tokens), 8 H100, 110 rps",
        [H100] * 8,
        heavy_tail,
        180.0,
        ("lmetric", "lpwl", "least_connections"),
    ),
    "sessions": Scenario(
        "sessions with 2,000-token system prompts, 8 A100",
        [A100] * 8,
        sessions,
        120.0,
        ("cache_aware", "lmetric", "lpwl", "sticky_until_saturated"),
    ),
    "mooncake": Scenario(
        "Mooncake conversation trace x 1.8, 16 H100",
        [H100] * 16,
        mooncake,
        600.0,
        ("lpwl", "lmetric", "cache_aware"),
        traces.MOONCAKE,
        block=512,
    ),
    "hot spot": Scenario(
        "Zipf prefixes (hot spot), 8 H100",
        [H100] * 8,
        zipf,
        120.0,
        ("lmetric", "cache_aware", "prefix_hash", "ip_hash"),
        traces.AZURE_CONV,
    ),
    "burst": Scenario(
        "burst (Azure code trace x 4), 8 H100",
        [H100] * 8,
        burst,
        600.0,
        ("lpwl", "lmetric", "least_connections"),
        traces.AZURE_CODE,
    ),
    "fails fast": Scenario(
        "one of eight fails fast",
        [H100] * 8,
        one_fails,
        120.0,
        ("least_connections", "round_robin"),
        traces.AZURE_CONV,
    ),
    "fails fast, retry": Scenario(
        "one of eight fails fast, one retry",
        [H100] * 8,
        one_fails,
        120.0,
        ("least_connections", "round_robin"),
        traces.AZURE_CONV,
        attempts=2,
    ),
    "slow": Scenario(
        "one of eight 6x slow",
        [H100] * 7 + [H100.slowed(6.0)],
        conversations(70.0),
        180.0,
        ("peak_ewma", "least_connections", "lpwl"),
        traces.AZURE_CONV,
    ),
    "scale-out": Scenario(
        "scale-out 4 to 8, cold",
        [H100] * 8,
        scale_out,
        120.0,
        ("lpwl", "least_connections"),
        traces.AZURE_CONV,
    ),
}


def run(scenario: Scenario, policy: str, seed: int, seconds: float | None = None, *, is_late: bool = False) -> World:
    world = World(scenario.fleet, policy, seed, block=scenario.block, attempts=scenario.attempts, is_late=is_late)
    if scenario.weights and policy.startswith("weighted"):
        for endpoint, weight in zip(world.endpoints, scenario.weights, strict=True):
            endpoint.weight = weight
        world.use(policy)
    world.run(scenario.traffic(world, Random(seed), seconds or scenario.seconds))
    return world
