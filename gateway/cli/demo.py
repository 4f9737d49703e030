"""`gateway demo-model`: the stand-in model server of `gateway/demo`."""

from enum import StrEnum
from typing import Annotated

import typer

from gateway.cli.output import fail
from gateway.config.values import parse_duration
from gateway.demo.app import run
from gateway.demo.engine import PROFILES
from gateway.demo.serving import Serving
from gateway.demo.wire import Demo


class Hardware(StrEnum):
    """The keys of `PROFILES`, for typer."""

    H100 = "h100"
    A100 = "a100"
    L40S = "l40s"


_SPEED = "Seconds of the engine in one of the clock: 0.5 is half as fast as the hardware."


def demo_model(
    name: Annotated[str, typer.Option(help="The model's name.")] = "demo",
    version: Annotated[str, typer.Option(help="Its version; its number multiplies tensors.")] = "v1",
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 lets the system choose.", min=0, max=65535)] = 9001,
    *,
    delay: Annotated[str, typer.Option(help="Before every streamed chunk: 20ms, 1s.")] = "0s",
    engine: Annotated[Hardware | None, typer.Option(help="Take the time that an 8B model takes on this GPU.")] = None,
    speed: Annotated[float, typer.Option(help=_SPEED, min=0.001, max=1000)] = 1.0,
    stream_interval: Annotated[int, typer.Option(help="Tokens in an event of an engine's stream.", min=1)] = 1,
    failing: Annotated[bool, typer.Option("--failing", help="The engine answers 500, at once.")] = False,
) -> None:
    """Run a stand-in model server: OpenAI API, Open Inference Protocol, echo; with --engine, with a GPU's times."""
    try:
        pause = parse_duration(delay)
    except ValueError as error:
        fail(f"--delay: {error}", 2)
    try:
        demo = Demo(name, version, pause)
        serving = None
        if engine is not None:
            serving = Serving(demo, PROFILES[engine], speed=speed, interval=stream_interval)
            serving.is_failing = failing
        run(demo, host, port, serving)
    except (ValueError, OSError) as error:
        fail(f"cannot serve on {host}:{port}: {error}")
