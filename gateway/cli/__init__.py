"""The command `gateway`."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from gateway.cli import certs, keys
from gateway.cli.check import check_command
from gateway.cli.demo import demo_model
from gateway.cli.explain import explain
from gateway.cli.serve import serve
from gateway.cli.status import status
from gateway.cli.tell import drain, reload, undrain

app = typer.Typer(
    name="gateway",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve)
app.command("check")(check_command)
app.command()(explain)
app.add_typer(keys.keys, name="keys")
app.add_typer(certs.app, name="certs")
app.command()(status)
app.command()(reload)
app.command()(drain)
app.command()(undrain)
app.command("demo-model")(demo_model)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"gateway {version('model-gateway')}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """One HTTPS entry point in front of every model, by name and version."""


def main() -> None:
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
