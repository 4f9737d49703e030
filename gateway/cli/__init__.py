"""The command `gateway`."""

import sys

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
    help="One HTTPS entry point in front of every model, by name and version.",
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


def main() -> None:
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
