"""What is measured of a run, and the bars for `llm`."""

from collections.abc import Sequence
from statistics import mean
from typing import NamedTuple

from tests.sim.world import Request, World


class Figures(NamedTuple):
    """Of one run, or the means over several. Times in seconds; errors have none, and are misses."""

    goodput: float  # share of requests with a first token within 2 s and at most 60 ms for each further one
    success: float
    first_p50: float
    first_p90: float
    first_p99: float
    whole_mean: float
    whole_p99: float
    share: float  # the most that one of the endpoints that came late had in its first five seconds, in fair shares


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def figures(world: World) -> Figures:
    done: list[Request] = world.done
    answered = [request for request in done if not request.is_failed]
    first = [request.first - request.arrived for request in answered]
    whole = [request.end - request.arrived for request in answered]
    return Figures(
        sum([request.is_good for request in done]) / len(done),
        len(answered) / len(done),
        quantile(first, 0.5),
        quantile(first, 0.9),
        quantile(first, 0.99),
        mean(whole),
        quantile(whole, 0.99),
        newcomers(world),
    )


def newcomers(world: World) -> float:
    since = max(world.since)
    late = [place for place, at in enumerate(world.since) if at == since and at > 0.0]
    placed = [place for at, place in world.places if since <= at < since + 5.0]
    if not late or not placed:
        return 0.0
    return max([placed.count(place) for place in late]) * len(world.endpoints) / len(placed)


def average(runs: Sequence[Figures]) -> Figures:
    return Figures(*[mean(column) for column in zip(*runs, strict=True)])


class Bar(NamedTuple):
    """What `llm` must reach: for goodput and success at least, for everything else at most."""

    field: str
    bound: float

    def is_met(self, found: Figures) -> bool:
        value: float = getattr(found, self.field)
        # To the digits in which the bar is given, as one of 10,000 requests is chance.
        return value >= self.bound - 5e-5 if self.field in ("goodput", "success") else value <= self.bound


BARS: dict[str, tuple[Bar, ...]] = {
    "mixed fleet": (Bar("goodput", 0.99), Bar("whole_p99", 11.5)),
    "heavy tail": (Bar("goodput", 0.98), Bar("whole_mean", 3.2), Bar("first_p99", 1.0)),
    "sessions": (Bar("goodput", 0.72), Bar("first_p50", 0.3)),
    "mooncake": (Bar("goodput", 0.978), Bar("first_p90", 1.8)),
    "hot spot": (Bar("first_p99", 0.3),),
    "burst": (Bar("goodput", 0.88),),
    "fails fast": (Bar("success", 0.9994),),
    "fails fast, retry": (Bar("success", 1.0),),
    "slow": (Bar("goodput", 0.997),),
    "scale-out": (Bar("first_p99", 0.25), Bar("share", 2.0)),
}

HEADER = (
    "| scenario | policy | goodput | success | first token p50, p90, p99 | whole answer mean, p99 | bars |\n"
    "|---|---|---|---|---|---|---|"
)


def row(title: str, name: str, policy: str, found: Figures) -> str:
    judged = BARS[name] if policy.startswith("llm") else ()
    bars = ", ".join(f"{bar.field} {bar.bound:g}: {'met' if bar.is_met(found) else 'MISSED'}" for bar in judged)
    first = ", ".join(spell(value) for value in (found.first_p50, found.first_p90, found.first_p99))
    whole = f"{found.whole_mean:.2f} s, {found.whole_p99:.1f} s"
    return f"| {title} | `{policy}` | {found.goodput:.4f} | {found.success:.4f} | {first} | {whole} | {bars} |"


def spell(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1.0 else f"{seconds:.2f} s"
