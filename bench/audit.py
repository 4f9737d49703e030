"""Before anything is measured: does a contestant do all that it is said to do? A comparison of unequal work is none."""

import http.client
import json
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from bench.contestants import ALL_POLICIES, Contestant, Started, started
from bench.processes import Failed
from bench.site import Site

_LOW_RATE = 5  # a second
_BURST = 60  # requests at once, many more
_BODY = b'{"model":"demo","messages":[{"role":"user","content":"hi"}]}'
_PATIENCE = 15.0  # seconds until a contestant is ready, or its log is written


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes
    protocol: str = ""  # of TLS
    cipher: str = ""
    session: ssl.SSLSession | None = None


def call(to: Started, headers: Mapping[str, str], path: str = "") -> Answer:
    """One request on a connection of its own."""
    connection: http.client.HTTPConnection
    if to.contestant.is_tls:
        connection = http.client.HTTPSConnection("localhost", to.port, timeout=10, context=_context(to))
    else:
        connection = http.client.HTTPConnection("localhost", to.port, timeout=10)
    try:
        connection.connect()
        sock = connection.sock
        tls = sock if isinstance(sock, ssl.SSLSocket) else None
        connection.request("POST", path or to.contestant.path, _BODY, {"content-type": "application/json", **headers})
        reply = connection.getresponse()
        fields = {name.lower(): value for name, value in reply.getheaders()}
        body = reply.read()
        if tls is None:
            return Answer(reply.status, fields, body)
        cipher = tls.cipher()
        return Answer(reply.status, fields, body, tls.version() or "", cipher[0] if cipher else "", tls.session)
    finally:
        connection.close()


def credentials(to: Started) -> dict[str, str]:
    """What a caller shows, if anything is asked for."""
    if not to.contestant.policies:
        return {}
    secret = to.site.tokens[0] if to.contestant.words.get("auth") == "jwt" else to.site.keys[0]
    return {"authorization": f"Bearer {secret}"}


def wait_ready(to: Started) -> float:
    """Until a proper request is answered with 200 -> seconds since its start. Raises Failed."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        to.running.check()
        try:
            status: Any = call(to, credentials(to)).status
        except (OSError, http.client.HTTPException) as error:
            status = error
        if status == 200:
            return time.monotonic() - to.running.began
        if time.monotonic() > deadline:
            raise Failed(f"{to.contestant.name} is not ready: {status}")
        time.sleep(0.005)


def audit(contestant: Contestant, site: Site) -> dict[str, object]:
    """Raises Failed if the contestant does less, or more, than its `policies`."""
    with started(contestant, site, rate=_LOW_RATE, burst=_LOW_RATE) as it:
        time.sleep(0.1)
        answer, found = _probe(it)
        if (answer.session is not None and _may_resume(it, answer.session)) != contestant.is_resuming:
            raise Failed(f"{contestant.name} resumes TLS sessions where the others do not, or the other way round")
    if found != contestant.policies:
        lacking, beyond = contestant.policies - found, found - contestant.policies
        raise Failed(f"{contestant.name} lacks {sorted(lacking)}, has unexpectedly {sorted(beyond)}")
    return {
        "policies": sorted(found),
        "lacks": sorted(ALL_POLICIES - found),
        "cipher": answer.cipher,
        "answer_bytes": sum(len(n) + len(v) + 4 for n, v in answer.headers.items()) + len(answer.body),
    }


def _probe(it: Started) -> tuple[Answer, set[str]]:
    good = credentials(it)
    deadline = time.monotonic() + _PATIENCE
    while (answer := _try(it, {**good, "x-audit": "1"})) is None or answer.status != 200:
        it.running.check()
        if time.monotonic() > deadline:
            raise Failed(f"{it.contestant.name} is not ready: {answer}")
        time.sleep(0.3)  # so that its low rate is no obstacle
    seen = json.loads(answer.body)
    fields = answer.headers
    is_server_hidden = "/" not in fields.get("server", "")  # the upstream's, with its version; nginx must say its own
    found = {
        "tls 1.3": answer.protocol == "TLSv1.3",
        "path": seen.get("path") == "/api/v1/chat/completions",
        "headers": seen.get("team") == "ml"
        and not seen["authorization"]
        and is_server_hidden
        and fields.get("x-generation") == "1",
        "request id": bool(seen.get("request_id")) and fields.get("x-request-id") == seen["request_id"],
        "sticky cookie": "gw_session" in fields.get("set-cookie", ""),
    }
    time.sleep(1.2)  # the bucket is full again
    bad = _try(it, {"authorization": "Bearer gw_0123456789_nobody"})
    found["credentials"] = bad is not None and bad.status == 401
    statuses = [got.status for _ in range(_BURST) if (got := _try(it, good)) is not None]
    found["limit"] = 429 in statuses
    found["access log"] = _is_logged(it)
    return answer, {policy for policy, holds in found.items() if holds}


def _may_resume(it: Started, session: ssl.SSLSession) -> bool:
    with (
        socket.create_connection(("127.0.0.1", it.port), 10) as plain,
        _context(it).wrap_socket(plain, server_hostname="localhost", session=session) as tls,
    ):
        return bool(tls.session_reused)


@cache
def _context(to: Started) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(to.site.certificate))


def _try(it: Started, headers: Mapping[str, str]) -> Answer | None:
    try:
        return call(it, headers)
    except (OSError, http.client.HTTPException):
        return None


def _is_logged(it: Started) -> bool:
    """A line of JSON with status 200 and the path, in a file."""
    name = "stdout" if it.contestant.name.startswith("haproxy") else "access.log"
    deadline = time.monotonic() + (_PATIENCE if it.contestant.policies else 0)
    while True:
        path = it.folder / name
        text = path.read_text() if path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]
        if any(line["status"] == 200 and "/v1/chat/completions" in line["path"] for line in lines):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
