"""The chart. It alone needs matplotlib, of the extra `bench`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bench import figures


def draw(path: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """The ratio of each row's first measure to each peer's, with its range. `rows` as in results.json."""
    bars = [
        (f"{name} / {peer}", figures.Figure(*ratio))
        for name, row in rows.items()
        for peer, ratio in row["ratios"].items()
    ]
    canvas = Figure(figsize=(9, 1.2 + 0.4 * len(bars)), layout="constrained")
    axes = canvas.add_subplot()
    values = [found.median for _, found in bars]
    spread = [[found.median - found.low for _, found in bars], [found.high - found.median for _, found in bars]]
    colours = ["#2a7f62" if value <= 1 else "#c77d2b" for value in values]
    axes.barh(
        [label for label, _ in bars], values, xerr=spread, color=colours, error_kw={"ecolor": "#333", "capsize": 3}
    )
    axes.axvline(1, color="#333", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("the gateway's cost by the peer's; left of the line the gateway is cheaper")
    axes.set_title("Cost of the same work, median and range over rounds")
    canvas.savefig(path, dpi=120)
