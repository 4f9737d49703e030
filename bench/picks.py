"""What one pick costs, by policy and size of the pool: `python -m bench.picks`.

Microseconds of CPU, the least of several runs of many picks, in a pool whose endpoints hold a few requests each and
have been measured. The bar: 2 µs at 2 to 64 endpoints and 10 µs at 512, but for those that scan all, which say so.
"""

from collections.abc import Sequence
from random import Random
from time import process_time

from gateway.core.endpoint import Endpoint, Health, Row
from gateway.core.pick import POLICIES, PROMPTED

SIZES = (2, 8, 64, 512)
RUNS = 7


def pool_of(size: int, rng: Random) -> list[Endpoint]:
    row = Row([Health.UP] * size, [0] * size)
    pool = [Endpoint(f"http://10.0.{n >> 8}.{n & 255}:8000", n, row) for n in range(size)]
    for endpoint in pool:
        endpoint.pending = rng.randrange(1, 9)
        endpoint.observe(rng.uniform(0.05, 0.2), 1.0)
    return pool


def cost(name: str, size: int, picks: int) -> float:
    """Microseconds."""
    rng = Random(size)
    pool: Sequence[Endpoint] = tuple(pool_of(size, rng))
    policy = POLICIES[name](pool)
    keys = [b"10.0.%d.%d" % (n >> 8, n & 255) for n in range(picks)]
    found = []
    for _ in range(RUNS):
        began = process_time()
        for key in keys:
            policy.pick(pool, key, 1.0, rng)
        found.append((process_time() - began) / picks * 1e6)
    return min(found)


def main() -> None:
    print(f"{'policy':28}" + "".join(f"{size:>9}" for size in SIZES) + "   µs, at so many endpoints")
    for name in sorted(POLICIES.keys() - PROMPTED.keys()):
        print(f"{name:28}" + "".join(f"{cost(name, size, 200_000 // max(size, 40)):9.2f}" for size in SIZES))


if __name__ == "__main__":
    main()
