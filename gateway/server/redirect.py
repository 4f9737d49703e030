"""The plain listener: answers the challenges of an ACME CA, sends everybody else to https, and serves nothing else."""

import re
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.headers import get

_CHALLENGE = re.compile(rb"/\.well-known/acme-challenge/([A-Za-z0-9_-]{1,128})")  # RFC 8555, 8.3


def redirect_to(port: int, answers: Path) -> ASGIApp:
    """An app that answers 308 (RFC 9110, 15.4.9: method and body stay) to the same target on https at `port`.

    `answers` is the folder of what an ACME CA may ask for; it holds a file for each token.
    """
    suffix = "" if port == 443 else f":{port}"

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if "refusal" in scope:
            status, headers = scope["refusal"].status, []
        else:
            host = (get(scope["headers"], b"host") or b"").decode("latin-1")
            name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
            target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
            status, headers = 308, [(b"location", f"https://{name}{suffix}".encode("latin-1") + target)]
            if not name:  # of HTTP/1.0, or an empty one: nobody knows where to
                status, headers = 400, []
        challenge = _CHALLENGE.fullmatch(scope.get("raw_path", b""))
        answer = _read(answers / challenge[1].decode()) if challenge else b""
        if answer:
            status, headers = 200, [(b"content-type", b"application/octet-stream")]
        headers.append((b"content-length", b"%d" % len(answer)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope.get("method") == "HEAD" else answer})

    return app


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
