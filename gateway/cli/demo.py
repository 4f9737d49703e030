"""`gateway demo-model`: the stand-in model server of `gateway/demo`."""

from typing import Annotated

import typer

from gateway.cli.output import fail
from gateway.config.values import parse_duration
from gateway.demo.app import run


def demo_model(
    name: Annotated[str, typer.Option(help="The model's name.")] = "demo",
    version: Annotated[str, typer.Option(help="Its version; its number multiplies tensors.")] = "v1",
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 lets the system choose.", min=0, max=65535)] = 9001,
    delay: Annotated[str, typer.Option(help="Before every streamed chunk: 20ms, 1s.")] = "0s",
) -> None:
    """Run a stand-in model server: OpenAI API, Open Inference Protocol, echo."""
    try:
        run(name, version, host, port, parse_duration(delay))
    except (ValueError, OSError) as error:
        fail(f"cannot serve on {host}:{port}: {error}")
