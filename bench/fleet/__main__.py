"""The command line: `scripts/bench fleet`."""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

from bench import site
from bench.contestants import ROOT
from bench.fleet import report
from bench.fleet.joining import joining
from bench.fleet.peers import OURS, PEERS, Balancer, present, started
from bench.fleet.report import Figures
from bench.fleet.scenarios import SCENARIOS, Ask, Scenario
from bench.processes import Failed, Running, ended, free_ports, run

_RESULTS = ROOT / "bench" / "results-fleet.json"
_CHART = ROOT / "docs" / "balancing.png"
_START = 5.0  # seconds that the clients may take until they are ready


def main() -> int:
    options = _options()
    versions = present(options.peers)
    found: dict[str, dict[str, Figures]] = {}
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        place = site.make(Path(folder))
        for name in options.scenarios:
            try:
                names = [peer for peer in versions if not PEERS[peer].only or name in PEERS[peer].only]
                found[name] = play(SCENARIOS[name], names, place, options)
            except Failed as failure:
                lines.append(f"{name}: NOT MEASURED: {failure}")
                continue
            print(report.table(SCENARIOS[name].title, found[name]) + "\n", flush=True)
            lines += [f"MISSED {line}" for line in report.missed(name, found[name])] if OURS in versions else []
    conditions = {"speed": options.speed, "seconds": options.seconds, "seed": options.seed}
    known = report.remember(_RESULTS, conditions, versions, found)
    if options.chart and known and find_spec("matplotlib"):
        import_module("bench.fleet.chart").draw(_CHART, {name: known[name] for name in SCENARIOS if name in known})
    for line in lines:
        print(line, file=sys.stderr)
    return 1 if options.check and lines else 0


def play(scenario: Scenario, names: list[str], place: site.Site, options: argparse.Namespace) -> dict[str, Figures]:
    """All balancers at one time, each before a fleet of its own, so that what disturbs one disturbs all."""
    asks = scenario.traffic(Random(options.seed), options.seconds)
    if not asks:
        raise Failed("no requests")
    late = scenario.late
    fleets: dict[str, list[int]] = {}
    balancers: dict[str, Balancer] = {}
    with contextlib.ExitStack() as stack:
        for number, name in enumerate(names):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="run-", dir=place.folder)))
            fleets[name] = ports = start_fleet(scenario, folder, options, stack)
            first = ports[: len(ports) - late]
            balancers[name] = stack.enter_context(started(name, first, folder, place.folder / "certs"))
            print(f"  {number + 1}/{len(names)} {name}", file=sys.stderr, flush=True)
        began = time.monotonic() + _START
        halfway = began + options.seconds / options.speed / 2
        with joining(halfway, [(balancers[name], fleets[name][-late:]) for name in names if late]):
            results = load(asks, {name: each.url for name, each in balancers.items()}, place, options.speed, began)
        found = {name: report.figures(asks, results[name], options.speed) for name in names}
        for name in names if late else ():
            share = report.newcomers(arrivals(balancers[name].folder), fleets[name], late, options.speed)
            found[name] = found[name]._replace(share=share)
    return found


def start_fleet(
    scenario: Scenario, folder: Path, options: argparse.Namespace, stack: contextlib.ExitStack
) -> list[int]:
    """Its engines, until the stack is left -> their ports. Raises Failed."""
    folder = folder / "fleet"  # what it prints is apart from what its balancer does
    folder.mkdir()
    ports = free_ports(len(scenario.engines))
    fleet = [{**engine._asdict(), "port": port} for engine, port in zip(scenario.engines, ports, strict=True)]
    (folder / "fleet.json").write_text(json.dumps(fleet) + "\n")
    command = ["/bin/sh", "-c", 'exec "$@" < fleet.json', "sh", sys.executable, "-m", "bench.fleet.engines"]
    command += [str(options.speed), str(options.interval)]
    running = stack.enter_context(ended(Running("the fleet", command, folder, {"PYTHONPATH": str(ROOT)})))
    for port in ports:
        running.wait_for_port(port, 60)
    return ports


def arrivals(folder: Path) -> list[tuple[float, int]]:
    """What the fleet of `folder` noted: when, and at which port, each prompt came."""
    lines = [line.split() for line in (folder / "fleet" / "stdout").read_text().splitlines()]
    return [(float(at), int(port)) for at, port in lines]


def load(asks: list[Ask], urls: dict[str, str], place: site.Site, speed: float, began: float) -> dict[str, Any]:
    """The clients, whose time 0 is `began` -> what they saw, by balancer. Raises Failed."""
    rows = [[ask.at, ask.parts, ask.output] for ask in asks]
    plan = json.dumps({"began": began, "speed": speed, "urls": urls, "asks": rows})
    command = [sys.executable, "-m", "bench.fleet.load", str(place.certificate)]
    done = subprocess.run(command, input=plan + "\n", cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"the load: {done.stderr.strip().splitlines()[-1:]}")
    results: dict[str, Any] = json.loads(done.stdout)
    return results


def _options() -> argparse.Namespace:
    scenarios = "\n".join(f"  {name:<10} {each.title}" for name, each in SCENARIOS.items())
    peers = "\n".join(f"  {name}" for name in PEERS)
    parser = argparse.ArgumentParser(
        prog="scripts/bench fleet",
        description="Eight stand-in engines behind the gateway and behind others, the same requests at the same time:"
        "\nwhat share was answered in time, and how long the first token took (in the engines' seconds).",
        epilog=f"scenarios:\n{scenarios}\n\npeers:\n{peers}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scenarios", type=lambda text: _names(text, ",", SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--peers", type=lambda text: _names(text, ";", PEERS), default=list(PEERS), help="split by ;")
    parser.add_argument("--seconds", type=float, default=40.0, help="of the engines, that requests come in (40)")
    parser.add_argument("--speed", type=float, default=0.25, help="seconds of the engines in one of the clock (0.25)")
    parser.add_argument("--interval", type=int, default=16, help="tokens in an event of a stream (16)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--chart", action="store_true", help=f"draw {_CHART.relative_to(ROOT)}, with what was measured before"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 where the gateway is not as good as the best")
    return parser.parse_args()


def _names(text: str, split: str, known: dict[str, Any]) -> list[str]:
    names = [name.strip() for name in text.split(split)]
    if unknown := set(names) - set(known):
        raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; there are {', '.join(known)}")
    return names


if __name__ == "__main__":
    run(main)
