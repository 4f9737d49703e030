"""What is told of outcomes: the table and results.json; the chart is in chart.py."""

import json
import os
import platform
import ssl
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.figures import Figure, figure, is_missed, ratio
from bench.row import Outcome


def compare(outcome: Outcome, measure: str, peer: str) -> Figure | None:
    """The gateway's measure by a peer's, round by round."""
    return ratio(outcome.of(outcome.subject, measure), outcome.of(peer, measure))


def missed(outcome: Outcome) -> list[str]:
    """The bars that are missed by more than the noise."""
    found = []
    for peer, bar in outcome.row.bars.items():
        against = compare(outcome, outcome.row.measures[0], peer) if peer in outcome.samples else None
        if against is not None and is_missed(against, bar):
            found.append(f"{outcome.row.name}: {against.median:.2f} times {peer}, over its bar of {bar:g}")
    for measure, ceiling in outcome.row.ceilings.items():
        own = figure(outcome.of(outcome.subject, measure))
        if is_missed(own, ceiling):
            found.append(f"{outcome.row.name}: {measure} {own.median:.4g}, over its bar of {ceiling:g}")
    return found


def table(outcome: Outcome) -> str:
    """A row as text: for each measure and contestant the median, the spread, and the ratio."""
    lines = [f"{outcome.row.name}: {outcome.row.title}"]
    for place, measure in enumerate(outcome.row.measures):
        for name in outcome.samples:
            found = figure(outcome.of(name, measure))
            lines.append(f"  {measure:<16} {name:<22} {_span(found):<30}" + _against(outcome, place, name))
    for note in outcome.row.notes:
        found = figure([value for name in outcome.samples for value in outcome.of(name, note)])
        lines.append(f"  {note:<16} {'':<22} {_span(found)}")
    if outcome.others > 0.05:
        lines.append(f"  (other processes had {outcome.others:.0%} of this machine meanwhile: mind the spread)")
    return "\n".join(line.rstrip() for line in lines)


def _against(outcome: Outcome, place: int, name: str) -> str:
    measure = outcome.row.measures[place]
    if name == outcome.subject:
        ceiling = outcome.row.ceilings.get(measure)
        return _verdict(figure(outcome.of(name, measure)), ceiling) if ceiling is not None else ""
    found = compare(outcome, measure, name)
    if found is None:
        return ""
    text = f"ratio {found.median:.2f} ({found.low:.2f} to {found.high:.2f})"
    bar = outcome.row.bars.get(name) if place == 0 else None
    return text if bar is None else f"{text}  {_verdict(found, bar)}"


def _verdict(found: Figure, bar: float) -> str:
    state = "MISSED" if is_missed(found, bar) else "met" if found.median <= bar else "within the noise"
    return f"bar {bar:g}: {state}"


def _span(found: Figure) -> str:
    digits = 0 if found.median >= 1000 else 1 if found.median >= 10 else 2
    return f"{found.median:>9,.{digits}f}  ({found.low:,.{digits}f} to {found.high:,.{digits}f})"


def document(
    outcomes: Sequence[Outcome], audits: Mapping[str, Mapping[str, Any]], versions: Mapping[str, str]
) -> dict[str, Any]:
    """Everything, for machines."""
    return {
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": dict(versions),
        "platform": {
            "kernel": platform.release(),
            "processors": os.cpu_count(),
            "python": platform.python_version(),
            "openssl": ssl.OPENSSL_VERSION,
        },
        "contestants": {name: dict(audit) for name, audit in audits.items()},
        "rows": {outcome.row.name: _entry(outcome) for outcome in outcomes},
    }


def _entry(outcome: Outcome) -> dict[str, Any]:
    measure = outcome.row.measures[0]
    ratios = {name: compare(outcome, measure, name) for name in outcome.samples if name != outcome.subject}
    return {
        "title": outcome.row.title,
        "measure": measure,
        "ratios": {name: [found.median, found.low, found.high] for name, found in ratios.items() if found},
        "bars": dict(outcome.row.bars),
        "ceilings": dict(outcome.row.ceilings),
        "missed": missed(outcome),
        "others": round(outcome.others, 3),
        "samples": {name: list(map(dict, samples)) for name, samples in outcome.samples.items()},
    }


def write(path: Path, content: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Rows that were not run this time are kept from the last -> all rows."""
    known = json.loads(path.read_text()) if path.exists() else {}
    rows = {**known.get("rows", {}), **content["rows"]}
    contestants = {**known.get("contestants", {}), **content["contestants"]}
    versions = {**known.get("versions", {}), **content["versions"]}
    merged = {**content, "rows": rows, "contestants": contestants, "versions": versions}
    path.write_text(json.dumps(merged, indent=1) + "\n")
    return rows
