"""Does the simulator say what real sockets do? The requests of `scripts/bench fleet`, played in virtual time by the
policies that its balancers have, beside what was measured there last: `python -m tests.sim.sockets`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from bench.fleet.load import text
from bench.fleet.peers import OURS, QUEUED
from bench.fleet.scenarios import SCENARIOS, Ask, Scenario
from gateway.core.endpoint import Health
from gateway.core.pool import Pool
from gateway.core.prompt import chain_of
from tests.sim.engine import A100, H100, L40S, Profile
from tests.sim.measure import Figures, figures
from tests.sim.world import Request, World

RESULTS = Path(__file__).parents[2] / "bench" / "results-fleet.json"
PROFILES = {"h100": H100, "a100": A100, "l40s": L40S}
# Who does what in the simulator. vllm-router's `cache_aware` is left out: it has not SGLang's numbers.
POLICIES = {
    OURS: "llm",
    QUEUED: "llm + queue",
    "nginx, least_conn": "least_connections",
    "haproxy, leastconn": "least_connections",
    "nginx, random two": "two_choices",
    "vllm-router, power_of_two": "two_choices",
    "sglang-router, cache_aware": "cache_aware",
}
NEAR = 0.03  # what two runs may differ by without one being better
NEAR_SHARE = 0.3  # fair shares; one is 25 requests in 5 s, of which chance moves five
BLOCK = 64  # tokens
LEFT_OUT = ("fails",)  # there what counts is who tries again, which the simulator's other policies do not


def profiles(scenario: Scenario) -> list[Profile]:
    found = []
    for engine in scenario.engines:
        profile = PROFILES[engine.profile]
        profile = profile._replace(kv=engine.kv) if engine.kv else profile
        found.append(profile.slowed(engine.slower))
    return found


def request(ask: Ask) -> Request:
    chain = chain_of(text(list(ask.parts)).encode())
    found = Request(ask.prompt, ask.output, chain, chain)
    found.head = text(list(ask.parts[:1]))[:100].encode()
    return found


def simulated(scenario: Scenario, policy: str, seed: int, seconds: float) -> Figures:
    kind, _, late = policy.partition(" + ")
    world = World(profiles(scenario), kind, seed, block=BLOCK, is_late=bool(late))
    if kind != "llm":  # the others leave nobody out
        world.pool = Pool("m", "v", world.endpoints, world.pool.policy, ("m", None))
    for place in range(len(scenario.engines) - scenario.late, len(scenario.engines)):
        world.set_health(place, Health.DOWN, 0.0)
        world.after(seconds / 2, lambda now, place: world.set_health(place, Health.UP, now), place)
    world.run([(ask.at, request(ask)) for ask in scenario.traffic(Random(seed), seconds)])
    return figures(world)


def disagreements(found: Mapping[str, tuple[float, float]], near: float = NEAR) -> list[str]:
    """Pairs of which one is better in the simulator, and the other over sockets, by more than chance. `found`: the
    goodput of each balancer, or another figure, there and here."""
    names, lines = list(found), []
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            there, here = (found[one][n] - found[other][n] for n in (0, 1))
            if there * here < 0.0 and abs(there) > near and abs(here) > near:
                lines.append(f"{one} and {other}")
    return lines


def main() -> int:
    known: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    seconds, seed = known["conditions"]["seconds"], known["conditions"]["seed"]
    print("| goodput, simulated / over sockets | " + " | ".join(POLICIES) + " | other order |")
    print("|---" * (len(POLICIES) + 2) + "|")
    differing = 0
    for name, scenario in SCENARIOS.items():
        measured = known["scenarios"].get(name)
        if measured is None or name in LEFT_OUT:
            continue
        by_policy = {policy: simulated(scenario, policy, seed, seconds) for policy in set(POLICIES.values())}
        there = {peer: policy for peer, policy in POLICIES.items() if peer in measured}
        found = {peer: (by_policy[policy].goodput, measured[peer]["goodput"]) for peer, policy in there.items()}
        cells = {peer: f"{one:.3f} / {other:.3f}" for peer, (one, other) in found.items()}
        pairs = disagreements(found)
        if scenario.late:  # where everybody is in time, what counts is who floods the new ones
            found = {peer: (by_policy[policy].share, measured[peer]["share"]) for peer, policy in there.items()}
            cells = {peer: f"{cells[peer]}, {one:.2f} / {other:.2f} x" for peer, (one, other) in found.items()}
            pairs += disagreements(found, NEAR_SHARE)
        differing += len(pairs)
        print(
            f"| {scenario.title} | "
            + " | ".join(cells.get(peer, "") for peer in POLICIES)
            + f" | {'; '.join(pairs) or 'none'} |",
            flush=True,
        )
    return min(differing, 1)


if __name__ == "__main__":
    raise SystemExit(main())
