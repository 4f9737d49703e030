"""A fleet of stand-in engines in one process, so that eight of them cost no more than what they do.

Prints a line for each prompt: when it came (CLOCK_MONOTONIC), and at which port.

usage: python -m bench.fleet.engines SPEED INTERVAL < [{"profile", "slower", "is_failing", "kv", "port"}, …]
"""

import asyncio
import gc
import json
import sys
import time
from typing import Any

import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.demo.app import build
from gateway.demo.engine import PROFILES
from gateway.demo.serving import Serving
from gateway.demo.wire import Demo


class Noted:
    """Says which prompts come, whoever stands before it: what a balancer says of itself is not asked."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self.app = app
        self.port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            print(time.monotonic(), self.port, flush=True)
        await self.app(scope, receive, send)


def server(engine: dict[str, Any], speed: float, interval: int) -> uvicorn.Server:
    profile = PROFILES[engine["profile"]]
    if engine["kv"]:
        profile = profile._replace(kv=engine["kv"])
    demo = Demo("demo", "v1")
    serving = Serving(demo, profile, speed=speed / engine["slower"], interval=interval)
    serving.is_failing = engine["is_failing"]
    app = Noted(build(demo, serving), engine["port"])
    config = uvicorn.Config(
        app, host="127.0.0.1", port=engine["port"], log_level="error", access_log=False,
        http="httptools", timeout_keep_alive=600,
    )  # fmt: skip
    return uvicorn.Server(config)


async def main(fleet: list[dict[str, Any]], speed: float, interval: int) -> None:
    gc.freeze()
    await asyncio.gather(*(server(engine, speed, interval).serve() for engine in fleet))


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.stdin.readline()), float(sys.argv[1]), int(sys.argv[2])))
