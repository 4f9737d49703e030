"""The command line of the bench: `scripts/bench`."""

import argparse
import sys
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import report, site
from bench.audit import audit
from bench.contestants import ROOT, Contestant, Missing, find
from bench.processes import Failed, ended, run
from bench.row import Outcome, Pace, Row, play
from bench.rows import ROWS

_RESULTS = ROOT / "bench" / "results.json"
_OPTIONAL = "litellm"  # two orders of magnitude away, and long to install: only when it is asked for


def main() -> int:
    options = _options()
    pace = Pace(options.seconds, options.repeats, _say if options.verbose else lambda text: None)
    bench = Bench(pace, options.peers)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench.run([ROWS[name] for name in options.rows], site.make(Path(folder)))
    return bench.finish(is_checked=options.check)


class Bench:
    """One run of the bench."""

    def __init__(self, pace: Pace, peers: list[str] | None) -> None:
        self.pace = pace
        self.peers = peers
        self.audits: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, str] = {}
        self.outcomes: list[Outcome] = []
        self.failures: list[str] = []
        self.absent: set[str] = set()

    def run(self, rows: list[Row], place: site.Site) -> None:
        for row in rows:
            try:
                contestants = [each for each in row.contestants if self._takes_part(each, place)]
                outcome = play(row, contestants, place, self.pace)
            except Failed as failure:
                self.failures.append(f"{row.name}: {failure}")
                _say(f"{row.name}: NOT MEASURED: {failure}\n")
            else:
                self.outcomes.append(outcome)
                print(report.table(outcome) + "\n", flush=True)

    def finish(self, *, is_checked: bool) -> int:
        """Write what was found -> the exit code."""
        if self.outcomes:
            known = report.write(_RESULTS, report.document(self.outcomes, self.audits, self.versions))
            _say(f"written: {_RESULTS.relative_to(ROOT)}")
            chart = _RESULTS.with_suffix(".png")
            if find_spec("matplotlib"):
                import_module("bench.chart").draw(chart, {name: known[name] for name in ROWS if name in known})
                _say(f"written: {chart.relative_to(ROOT)}")
            else:
                _say("no chart: matplotlib is not installed")
        missed = [line for outcome in self.outcomes for line in report.missed(outcome)]
        for line in (*missed, *self.failures):
            _say(f"MISSED {line}" if line in missed else f"FAILED {line}")
        return 1 if is_checked and (missed or self.failures) else 0

    def _takes_part(self, contestant: Contestant, place: site.Site) -> bool:
        """Wanted, here, and as good as its word. Raises Failed if it is not."""
        name = contestant.name
        if not name.startswith("gateway") and not self._is_wanted(name):
            return False
        key = f"{name}, jwt" if contestant.words.get("auth") == "jwt" else name
        try:
            self.versions[name] = find(contestant)
        except Missing as missing:
            if name not in self.absent:
                _say(f"{name}: skipped: {missing}")
            self.absent.add(name)
            return False
        if key not in self.audits and not contestant.count("key_count"):
            _say(f"checking that {key} does what it is said to do ...")
            with ended(site.start_upstream(place)):
                self.audits[key] = audit(contestant, place)
        return True

    def _is_wanted(self, name: str) -> bool:
        if self.peers is None:
            return name != _OPTIONAL
        return any(name == peer or name.startswith(f"{peer},") for peer in self.peers)


def _options() -> argparse.Namespace:
    rows = "\n".join(f"  {row.name:<10} {row.title}" for row in ROWS.values())
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="CPU (and memory, and latency) that the gateway takes for its work, beside others that do the same "
        "work.\nHow it is measured: docs/performance.md. The contestants' configurations: bench/peers/.",
        epilog=f"rows:\n{rows}\n\npeers: haproxy, nginx, envoy, vllm-router, sglang-router; litellm only if named",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=_names, default=list(ROWS), help="some rows, as small,jwt; all if absent")
    parser.add_argument("--peers", type=lambda text: text.split(","), default=None, help="some peers, as haproxy,nginx")
    parser.add_argument("--seconds", type=float, help="length of a run (5)")
    parser.add_argument("--repeats", type=int, help="rounds, each one run of every contestant (5)")
    parser.add_argument("--quick", action="store_true", help="2 seconds, 3 rounds: for a first look")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed by more than the noise")
    parser.add_argument("--verbose", action="store_true", help="say every run")
    options = parser.parse_args()
    options.seconds = options.seconds or (2 if options.quick else 5)
    options.repeats = options.repeats or (3 if options.quick else 5)
    return options


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(ROWS):
        raise argparse.ArgumentTypeError(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    return names


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main)
