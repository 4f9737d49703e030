"""Who stands before a fleet: the gateway, and others with the policy that serves them best here."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.contestants import ROOT, TABLE, Missing, find
from bench.processes import Running, ended, free_ports
from bench.render import render, render_file

OURS = "gateway, llm"
QUEUED = "gateway, llm, late binding"


class Peer(NamedTuple):
    """A program of `bench.contestants` with a policy."""

    program: str
    policy: str  # in the words of its configuration
    template: str = ""
    only: tuple[str, ...] = ()  # the scenarios that it is for; (): all

    @property
    def is_tls(self) -> bool:
        return self.program == "gateway"


_ROUTER = (
    "--host", "127.0.0.1", "--port", "@port@", "--policy", "@policy@", "--prometheus-port", "@admin_port@",
    "--log-level", "error", "--request-timeout-secs", "600", "--worker-urls",
)  # fmt: skip
_COMMANDS: dict[str, Sequence[str]] = {
    "gateway": (sys.executable, "-m", "gateway", "serve", "--config", "@config@"),
    "nginx": ("nginx", "-p", "@folder@", "-c", "@config@"),
    "haproxy": ("haproxy", "-db", "-f", "@config@"),
    "vllm-router": (str(ROOT / ".cache/bench/vllm-router/bin/vllm-router"), *_ROUTER),
    "sglang-router": (str(ROOT / ".cache/bench/sglang-router/bin/sglang-router"), "launch", *_ROUTER),
}
PEERS = {
    OURS: Peer("gateway", "llm", "gateway.yaml"),
    QUEUED: Peer("gateway", "llm", "gateway-queue.yaml", ("burst",)),
    "nginx, least_conn": Peer("nginx", "least_conn", "nginx.conf"),
    "nginx, random two": Peer("nginx", "random two least_conn", "nginx.conf"),
    "haproxy, leastconn": Peer("haproxy", "leastconn", "haproxy.cfg"),
    "vllm-router, cache_aware": Peer("vllm-router", "cache_aware"),
    "vllm-router, power_of_two": Peer("vllm-router", "power_of_two"),
    "sglang-router, cache_aware": Peer("sglang-router", "cache_aware"),
}


def present(names: Sequence[str]) -> dict[str, str]:
    """Those of `names` that are here -> their versions; whoever is not is said to be missing."""
    found = {}
    for name in names:
        try:
            found[name] = find(TABLE[PEERS[name].program])
        except Missing as missing:
            print(f"{name}: skipped: {missing}", file=sys.stderr)
    return found


class Balancer(NamedTuple):
    """One that runs before engines on `ports`."""

    peer: Peer
    ports: Sequence[int]
    folder: Path
    words: dict[str, Any]  # of its configuration
    running: Running

    @property
    def port(self) -> int:
        port: int = self.words["port"]
        return port

    @property
    def url(self) -> str:
        """Where clients ask it."""
        return f"{'https' if self.peer.is_tls else 'http'}://localhost:{self.port}/v1/chat/completions"


@contextlib.contextmanager
def started(name: str, ports: Sequence[int], folder: Path, certificates: Path) -> Iterator[Balancer]:
    """Run it before engines on `ports` until the block ends. Raises Failed."""
    peer = PEERS[name]
    port, admin_port = free_ports(2)
    words: dict[str, Any] = {
        "policy": peer.policy, "port": port, "admin_port": admin_port, "folder": folder, "certificates": certificates,
        "config": folder / peer.template, "user": "user root;" if os.geteuid() == 0 else "",
    }  # fmt: skip
    command = [render(word, words) for word in _COMMANDS[peer.program]]
    if peer.template:
        configure(peer, ports, folder, words)
    else:
        command += [f"http://127.0.0.1:{each}" for each in ports]
    with ended(Running(name, command, folder, {"PYTHONPATH": str(ROOT)})) as running:
        running.wait_for_port(port, 60)
        yield Balancer(peer, ports, folder, words, running)


def configure(peer: Peer, ports: Sequence[int], folder: Path, words: dict[str, Any]) -> None:
    """Write its file for engines on `ports`, or put it in the place of an earlier one."""
    servers = {
        "nginx": "\n".join(f"    server 127.0.0.1:{each};" for each in ports),
        "haproxy": "\n".join(f"  server e{each} 127.0.0.1:{each}" for each in ports),
    }
    urls = ", ".join(f"http://127.0.0.1:{each}" for each in ports)
    text = render_file(f"peers/fleet/{peer.template}", {**words, "servers": servers.get(peer.program), "urls": urls})
    new = folder / f"{peer.template}.new"
    new.write_text(text)
    new.replace(folder / peer.template)  # whole, whoever reads it now
