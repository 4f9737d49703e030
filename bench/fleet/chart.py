"""The chart of `docs/balancing.md`. It alone needs matplotlib, of the extra `bench`."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from bench.fleet.peers import OURS, QUEUED
from bench.fleet.report import Figures

_OWN = {OURS: "#2a7f62", QUEUED: "#7cc3a2"}
_OTHERS = ("#b8bfc6", "#98a1ab", "#c9a66b", "#8fa8c8", "#6f8fb5", "#a58fb5", "#d0b8a0")


def draw(path: Path, found: Mapping[str, Mapping[str, Figures]]) -> None:
    """Two panels, a group of bars for each scenario: goodput, and the time to the first token (p99, logarithmic)."""
    names = list(dict.fromkeys(name for each in found.values() for name in each))
    canvas = Figure(figsize=(11, 7), layout="constrained")
    above, below = canvas.subplots(2, 1)
    width = 0.85 / len(names)
    others = iter(_OTHERS * 2)
    for place, name in enumerate(names):
        colour = _OWN.get(name) or next(others)
        at = [index - 0.425 + (place + 0.5) * width for index, each in enumerate(found.values()) if name in each]
        there = [each[name] for each in found.values() if name in each]
        above.bar(at, [each.goodput for each in there], width, color=colour, label=name)
        below.bar(at, [each.p99 for each in there], width, color=colour)
    for axes in (above, below):
        axes.set_xticks(range(len(found)), list(found))
        axes.spines[["top", "right"]].set_visible(False)
    above.set_ylabel("goodput: in time, of all requests")
    above.set_ylim(0, 1.02)
    below.set_ylabel("seconds to the first token, p99")
    below.set_yscale("log")
    below.yaxis.set_major_formatter("{x:g}")
    below.yaxis.set_minor_formatter("{x:g}")
    canvas.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    canvas.savefig(path, dpi=110)
