"""The command `gateway`."""

import sys

import typer

from gateway.cli import certs
from gateway.cli.demo import demo_model
from gateway.cli.serve import serve

app = typer.Typer(
    name="gateway",
    help="One HTTPS entry point in front of every model, by name and version.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve)
app.add_typer(certs.app, name="certs")
app.command("demo-model")(demo_model)


def main() -> None:
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
