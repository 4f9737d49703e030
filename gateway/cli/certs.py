"""`gateway certs`: make, list and check certificates.

Exit codes: 0 all is well, 1 something is to be done (expired, untrusted, unreachable), 2 a command that cannot be
understood.
"""

import time
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from gateway.cli.output import fail, print_table
from gateway.tls import authority, inspect
from gateway.tls.pair import Pair, Problem

app = typer.Typer(no_args_is_help=True, help="Make, list and check certificates.")

Folder = Annotated[Path, typer.Option(help="Where the certificates are: tls.certificates of routes.yaml.")]
WarnDays = Annotated[int, typer.Option(help="Exit 1 if fewer days are left.", min=0)]


@app.command()
def init(folder: Folder = Path("certs")) -> None:
    """Make a development CA and a certificate for localhost, if there is no certificate yet."""
    try:
        created = authority.ensure(folder)
    except (authority.CannotIssue, OSError) as error:
        fail(str(error))
    if created is not None:
        typer.echo(f"Made {created.certificate} for {', '.join(created.names)}.")
    ca = folder / authority.FOLDER / "ca.crt"
    typer.echo(authority.how_to_trust(ca) if ca.exists() else f"{folder} has certificates; nothing was made.")


@app.command()
def issue(
    names: Annotated[
        list[str], typer.Argument(help="Host names, *.wildcards, IP addresses; the first names the file.")
    ],
    folder: Folder = Path("certs"),
    days: Annotated[int, typer.Option(help="How long it is valid.", min=1, max=398)] = authority.DAYS,
) -> None:
    """Make (or renew) a certificate signed by the development CA."""
    try:
        created = authority.issue(folder, names, days=days)
    except (authority.CannotIssue, OSError) as error:
        fail(str(error))
    typer.echo(f"Made {created.certificate} for {', '.join(created.names)}, signed by {created.ca}.")


@app.command("list")
def show(folder: Folder = Path("certs"), warn_days: WarnDays = 30) -> None:
    """List the certificates that are served, and what is wrong with any."""
    pairs, problems = inspect.read(folder)
    now = time.time()
    problems += [
        _expires_soon(pair, warn_days) for pair in pairs if now < pair.not_after < now + warn_days * inspect.DAY
    ]
    print_table([("NAME", "KEY", "DAYS LEFT", "HOSTS", "ISSUER"), *(_row(pair, now) for pair in pairs)])
    for problem in problems:
        typer.echo(f"{'error' if problem.is_error else 'warning'}: {problem}", err=True)
    if problems:
        raise typer.Exit(1)


@app.command()
def check(
    target: Annotated[str, typer.Argument(metavar="HOST[:PORT]", help="Port 443 if absent.")],
    name: Annotated[str, typer.Option(help="Ask for this host, and verify it, instead of HOST.")] = "",
    ca: Annotated[Path | None, typer.Option(help="Trust this PEM file instead of the system's CAs.")] = None,
    warn_days: WarnDays = 30,
    timeout: Annotated[float, typer.Option(help="Seconds for the connection and the handshake.", min=0.1)] = 10.0,
) -> None:
    """Shake hands with a server and verify its certificate as a client does."""
    host, port = _host_and_port(target)
    try:
        shown = inspect.shown_by((host, port), name=name, ca=ca, timeout=timeout)
    except inspect.CheckFailed as failed:
        fail(f"{target}: {failed}")
    days = shown.days_left()
    typer.echo(
        f"{target}: {shown.version} {shown.cipher}, certificate of {', '.join(shown.hosts)} "
        f"by {shown.issuer}, {days:.0f} days left"
    )
    if days < warn_days:
        fail(f"{target}: fewer than {warn_days} days are left")


def _expires_soon(pair: Pair, days: int) -> Problem:
    return Problem(f"{pair.name}.crt", f"expires in fewer than {days} days", is_error=False)


def _row(pair: Pair, now: float) -> tuple[str, ...]:
    days = f"{(pair.not_after - now) / inspect.DAY:.0f}"
    return pair.name, pair.key_type, days, ",".join((*pair.hosts, *pair.addresses)) or "-", pair.issuer


def _host_and_port(target: str) -> tuple[str, int]:
    try:
        address = urlsplit(target if "://" in target else f"//{target}")
        host, port = address.hostname, address.port
    except ValueError:
        host, port = None, None
    if not host:
        raise typer.BadParameter(f"{target!r} is not HOST or HOST:PORT")
    return host, port or 443
