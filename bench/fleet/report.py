"""What the clients of each balancer saw, as figures: goodput and the time to the first token."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.fleet.peers import OURS, QUEUED
from bench.fleet.scenarios import TPOT, TTFT, Ask

_NEAR = 0.03  # of the best: as good as the best
_EARLY = 5.0  # seconds of the engines, after the first of those that joined was asked
_FAIR = 2.0  # fair shares that one of them may have in that time
_JITTER = 0.05  # seconds of the engines: what one run of a first-token time differs from the next by itself


class Figures(NamedTuple):
    """Seconds are the engines'."""

    goodput: float  # share of requests that were answered, and in time
    p50: float  # seconds to the first token, of those that were answered
    p99: float
    end: float  # seconds to the last token, p99
    failed: int
    share: float | None = None  # `newcomers`, where engines join


def figures(asks: Sequence[Ask], results: Sequence[Sequence[float]], speed: float) -> Figures:
    """An error is a miss."""
    good, firsts, ends = 0, [], []
    for ask, (status, first, end) in zip(asks, results, strict=True):
        if status != 200 or not first:
            continue
        firsts.append(first * speed)
        ends.append(end * speed)
        pace = (end - first) * speed / (ask.output - 1) if ask.output > 1 else 0.0
        good += first * speed <= TTFT and pace <= TPOT
    return Figures(
        good / len(asks), quantile(firsts, 0.5), quantile(firsts, 0.99), quantile(ends, 0.99), len(asks) - len(firsts)
    )


def newcomers(came: Sequence[tuple[float, int]], ports: Sequence[int], late: int, speed: float) -> float:
    """The most prompts that one of the last `late` of the engines on `ports` had in its first seconds, in fair shares;
    0: nobody was sent any. `came`: when, by the clock, and where each prompt did."""
    joined = ports[-late:]
    times = [at for at, port in came if port in joined]
    if not times:
        return 0.0
    early = [port for at, port in came if min(times) <= at < min(times) + _EARLY / speed]
    return max(early.count(port) for port in joined) * len(ports) / len(early)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share does not exceed; infinite if there is none."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("inf")


def table(title: str, found: Mapping[str, Figures]) -> str:
    """In Markdown."""
    has_share = any(each.share is not None for each in found.values())
    lines = [
        f"| {title} | goodput | TTFT p50 | TTFT p99 | end p99 | failed |" + " new one's share |" * has_share,
        "|---|---|---|---|---|---|" + "---|" * has_share,
        *(
            f"| {name} | {each.goodput:.3f} | {each.p50:.3f} s | {each.p99:.2f} s | {each.end:.1f} s | {each.failed} |"
            + ("" if each.share is None else f" {each.share:.2f} x |")
            for name, each in found.items()
        ),
    ]
    return "\n".join(lines)


def missed(scenario: str, found: Mapping[str, Figures]) -> list[str]:
    """Where ours, as it is configured for that, is neither the best nor as good as it."""
    ours = found.get(QUEUED, found[OURS])
    others = [each for name, each in found.items() if name not in (OURS, QUEUED)]
    lines = []
    if ours.share is not None and not 0.0 < ours.share <= _FAIR:
        lines.append(f"{scenario}: one that joined had {ours.share:.2f} times its share, {_FAIR:g} at most is fair")
    if not others:
        return lines
    best = max(each.goodput for each in others)
    if ours.goodput < best * (1 - _NEAR):
        lines.append(f"{scenario}: goodput {ours.goodput:.3f}, the best has {best:.3f}")
    # A first token that is quick because nobody else got one is no good one: rivals are those of like goodput.
    rivals = [each.p99 for each in others if each.goodput >= ours.goodput * (1 - _NEAR)]
    if rivals and ours.p99 > min(rivals) * (1 + _NEAR) + _JITTER:
        lines.append(f"{scenario}: TTFT p99 {ours.p99:.2f} s, the best has {min(rivals):.2f} s")
    return lines


def remember(
    path: Path, conditions: Mapping[str, Any], versions: Mapping[str, str], found: Mapping[str, Mapping[str, Figures]]
) -> dict[str, dict[str, Figures]]:
    """Write what was found beside what was measured earlier under the same conditions -> all of it."""
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    scenarios: dict[str, Any] = before.get("scenarios", {}) if before.get("conditions") == conditions else {}
    scenarios |= {name: {peer: each._asdict() for peer, each in some.items()} for name, some in found.items()}
    document = {"conditions": conditions, "versions": versions, "scenarios": scenarios}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return {name: {peer: Figures(**each) for peer, each in some.items()} for name, some in scenarios.items()}
