"""`gateway reload`, `drain` and `undrain`: the few things that can be told to a running gateway.

Exit codes: 0 done, 1 refused, with every reason.
"""

from pathlib import Path
from typing import Annotated

import httpx2
import msgspec
import typer

from gateway.cli.door import Admin, Config, Door
from gateway.cli.output import fail
from gateway.config.values import parse_duration

_RELOAD_SECONDS = 60.0  # a large configuration is read, and every worker has taken it over

Target = Annotated[str, typer.Argument(help="An endpoint's URL, a model, model@version, or `gateway`: all of it.")]
Deadline = Annotated[str, typer.Option(help="After this, bound sessions move on too: 10m, 1h. Never if absent.")]


class _Outcome(msgspec.Struct):
    generation: int = 0
    count: int = 0
    problems: list[str] = []
    notes: list[str] = []


def reload(config: Config = Path("routes.yaml"), admin: Admin = "") -> None:
    """Have a running gateway read its configuration again; wait until every worker has it, or say what is wrong."""
    outcome = _outcome(Door.of(config, admin).ask("POST", "/reload", timeout=_RELOAD_SECONDS))
    for note in outcome.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"generation {outcome.generation} serves")


def drain(target: Target, deadline: Deadline = "", config: Config = Path("routes.yaml"), admin: Admin = "") -> None:
    """Send no new work to a target; sessions bound to it are kept until they end or the deadline."""
    params = {"target": target}
    if deadline:
        try:
            params["deadline"] = str(parse_duration(deadline))
        except ValueError as error:
            fail(str(error), 2)
    outcome = _outcome(Door.of(config, admin).ask("POST", "/drain", params=params))
    typer.echo(f"draining {target}{_endpoints(target, outcome.count)}")


def undrain(target: Target, config: Config = Path("routes.yaml"), admin: Admin = "") -> None:
    """Take back a drain: the target gets new work again."""
    outcome = _outcome(Door.of(config, admin).ask("POST", "/undrain", params={"target": target}))
    typer.echo(f"{target} takes new work again{_endpoints(target, outcome.count)}")


def _outcome(answer: httpx2.Response) -> _Outcome:
    """Ends the command with every reason if it was refused."""
    try:
        outcome = msgspec.json.decode(answer.content, type=_Outcome)
    except msgspec.MsgspecError:
        fail(f"{answer.request.url.host} answers {answer.status_code}: is it the gateway's admin port?")
    if answer.status_code != 200:
        fail("\n".join(outcome.problems) or f"refused with {answer.status_code}")
    return outcome


def _endpoints(target: str, count: int) -> str:
    return "" if target == "gateway" else f": {count} endpoint{'' if count == 1 else 's'}"
