"""`gateway status`: what a running gateway of this machine says of itself.

Exit codes: 0 it is ready for traffic, 1 it is not, or it does not answer.
"""

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from gateway.admin.status import ModelStatus, Status
from gateway.cli.door import Admin, Config, Door
from gateway.cli.output import fail

_STYLES = {"up": "green", "checking": "blue", "probation": "yellow", "draining": "yellow", "down": "red"}
_DAY = 86400.0

Json = Annotated[bool, typer.Option("--json", help="The whole document, as /status gives it.")]


def status(config: Config = Path("routes.yaml"), admin: Admin = "", json: Json = False) -> None:
    """Show the workers, endpoints and certificates of a running gateway."""
    door = Door.of(config, admin)
    answer = door.ask("GET", "/status")
    if answer.status_code != 200:
        fail(f"{door.authority} answers {answer.status_code}: is it the gateway's admin port?")
    content = answer.content
    try:
        found = msgspec.json.decode(content, type=Status)
    except msgspec.MsgspecError as error:
        fail(f"{door.authority} answers what this version does not understand: {error}")
    if json:
        print(content.decode(), end="")
    else:
        Console().print(render(found))
    sys.exit(1 if found.obstacles else 0)


def render(found: Status) -> Group:
    """The document as tables."""
    return Group(*_summary(found), _workers(found), _models(found), *_inference(found), *_certificates(found))


def _summary(found: Status) -> list[Text]:
    state = Text("; ".join(found.obstacles), "bold red") if found.obstacles else Text("ready", "bold green")
    requests = sum(sum(version.statuses.values()) for model in found.models for version in model.versions)
    facts = [
        f"generation {found.generation}",
        f"up {_age(found.now - found.started)}",
        f"{requests} requests",
        f"{sum(model.in_flight for model in found.models)} in flight",
        f"{found.connections} connections",
    ]
    if found.buckets is not None:
        capacity = f" of {found.buckets.capacity}" if found.buckets.capacity else ""
        facts.append(f"{found.buckets.used}{capacity} token buckets ({found.buckets.store})")
    if found.lines_dropped:
        facts.append(f"{found.lines_dropped} log lines lost")
    return [
        Text.assemble("Gateway ", found.version, " " * bool(found.version), state),
        Text(", ".join(facts)),
        Text("hot path compiled" if found.is_compiled else "hot path not compiled (scripts/compile does)"),
        Text(found.python),
        *(Text(f"not reloaded: {problem}", "red") for problem in found.problems),
    ]


def _workers(found: Status) -> Table:
    table = _table("Workers", "slot", ">pid", ">generation", ">connections", ">starts", "")
    for worker in found.workers:
        state, style = ("serving", "green") if worker.generation >= found.generation else ("loading", "yellow")
        if not worker.pid:
            state, style = "not running", "red"
        elif worker.is_ending:
            state, style = "ending", "dim"
        numbers = (worker.pid or "-", worker.generation, worker.connections, worker.starts)
        _add(table, worker.slot, *numbers, Text(state, style))
    return table


def _models(found: Status) -> Table:
    table = _table("Models", "model@version", "endpoint", "health", ">in flight", ">first byte", ">requests", ">5xx")
    for model in found.models:
        for row in _rows(model):
            _add(table, *row)
    return table


def _rows(model: ModelStatus) -> list[list[object]]:
    """A row for each endpoint; what is the version's stands in its first."""
    rows: list[list[object]] = []
    for version in model.versions:
        name = f"{model.model}@{version.version}" if version.version else f"{model.model}, refused"
        if not model.model:
            name = "(no model matched)"  # what the gateway answers itself, such as /v1/models, among them
        requests = sum(version.statuses.values())
        failures = sum(count for status, count in version.statuses.items() if status >= "500")
        counts: list[object] = [requests, failures]
        for each in version.endpoints:
            health = Text(each.health, _STYLES.get(each.health, ""))
            if each.traffic:
                health = Text(f"{each.health}, {each.traffic}", "yellow")
            latency = f"{each.latency * 1000:.1f} ms" if each.latency else "-"
            rows.append([name, each.url, health, each.in_flight, latency, *counts])
            name, counts = "", ["", ""]
        if not version.endpoints:
            rows.append([name, "", "", "", "", *counts])
    return rows


def _inference(found: Status) -> list[Table]:
    """A row for each endpoint whose pool's policy reads prompts, or whose engine is asked."""
    endpoints = {each.url: each for m in found.models for v in m.versions for each in v.endpoints}
    told = [each for each in endpoints.values() if each.inference or each.engine]
    if not told:
        return []
    table = _table(
        "Inference", "endpoint", ">pending tokens", ">streams", ">from cache", ">prompt tokens/s", ">ms/token",
        ">engine waits", ">runs", ">cache",
    )  # fmt: skip
    for each in told:
        learned: list[object] = ["-"] * 5
        if (known := each.inference) is not None:
            share = f"{known.cached_tokens / known.prompt_tokens:.0%}" if known.prompt_tokens else "-"
            speed = f"{1 / known.prefill_seconds:.0f}" if known.prefill_seconds else "-"
            pace = f"{known.token_seconds * 1000:.1f}" if known.token_seconds else "-"
            learned = [known.pending_tokens, known.running_streams, share, speed, pace]
        said: list[object] = ["-"] * 3
        if (engine := each.engine) is not None:
            said = [engine.waiting, engine.running, f"{engine.kv_usage:.0%}"]
        _add(table, each.url, *learned, *said)
    return [table]


def _certificates(found: Status) -> list[Table]:
    if not found.certificates:
        return []
    table = _table("Certificates", "name", "hosts", ">days left", "")
    for each in found.certificates:
        days = (each.expires - found.now) / _DAY
        style = "red" if each.problem or days < 3 else "yellow" if days < 14 else "green"
        said = each.problem or ("expired" if days < 0 else "expires soon" if days < 14 else "valid")
        left = int(days // 1) if each.expires else ""
        _add(table, each.name, ", ".join(each.hosts), left, Text(said, style))
    return [table]


def _table(title: str, *columns: str) -> Table:
    """`>` before a column's name puts it to the right."""
    table = Table(
        title=title, title_justify="left", title_style="bold", header_style="dim", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for column in columns:
        is_number = column.startswith(">")
        table.add_column(
            column.lstrip(">"), justify="right" if is_number else "left", overflow="fold", no_wrap=is_number
        )
    return table


def _add(table: Table, *cells: object) -> None:
    """Names are text: their brackets mean nothing to the table."""
    table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in cells))


def _age(seconds: float) -> str:
    for size, unit in ((_DAY, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} seconds"
