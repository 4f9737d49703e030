"""The whole table: `python -m tests.sim [SCENARIO ...] [--seeds 5] [--first 1] [--scale 1.0] [--policies a,b]`."""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor

from tests.sim.measure import BARS, HEADER, Figures, average, figures, row
from tests.sim.scenarios import SCENARIOS, run


def measure(name: str, policy: str, seed: int, scale: float) -> Figures:
    scenario = SCENARIOS[name]
    kind, _, late = policy.partition(" + ")
    return figures(run(scenario, kind, seed, scenario.seconds * scale, is_late=bool(late)))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--scale", type=float, default=1.0, help="of each scenario's length")
    parser.add_argument("--policies", help="instead of llm and those that it is measured beside")
    given = parser.parse_args()
    missed = 0
    print(HEADER, flush=True)
    with ProcessPoolExecutor(os.cpu_count()) as workers:
        tasks = []
        for name in given.scenarios or SCENARIOS:
            late = ("llm + queue",) if name == "burst" else ()
            policies = given.policies.split(",") if given.policies else (*SCENARIOS[name].rivals, "llm", *late)
            for policy in policies:
                seeds = range(given.first, given.first + given.seeds)
                runs = [workers.submit(measure, name, policy, seed, given.scale) for seed in seeds]
                tasks.append((name, policy, runs))
        for name, policy, runs in tasks:
            found = average([each.result() for each in runs])
            print(row(SCENARIOS[name].title, name, policy, found), flush=True)
            if policy.startswith("llm"):
                missed += sum(not bar.is_met(found) for bar in BARS[name])
    return min(missed, 1)


if __name__ == "__main__":
    raise SystemExit(main())
