"""A fleet of stand-in engines in one process, so that eight of them cost no more than what they do.

usage: python -m bench.fleet.engines SPEED INTERVAL < [{"profile", "slower", "is_failing", "kv", "port"}, …]
"""

import asyncio
import gc
import json
import sys
from typing import Any

import uvicorn
import uvloop

from gateway.demo.app import build
from gateway.demo.engine import PROFILES
from gateway.demo.serving import Serving
from gateway.demo.wire import Demo


def server(engine: dict[str, Any], speed: float, interval: int) -> uvicorn.Server:
    profile = PROFILES[engine["profile"]]
    if engine["kv"]:
        profile = profile._replace(kv=engine["kv"])
    demo = Demo("demo", "v1")
    serving = Serving(demo, profile, speed=speed / engine["slower"], interval=interval)
    serving.is_failing = engine["is_failing"]
    config = uvicorn.Config(
        build(demo, serving), host="127.0.0.1", port=engine["port"], log_level="error", access_log=False,
        http="httptools", timeout_keep_alive=600,
    )  # fmt: skip
    return uvicorn.Server(config)


async def main(fleet: list[dict[str, Any]], speed: float, interval: int) -> None:
    gc.freeze()
    await asyncio.gather(*(server(engine, speed, interval).serve() for engine in fleet))


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.stdin.readline()), float(sys.argv[1]), int(sys.argv[2])))
