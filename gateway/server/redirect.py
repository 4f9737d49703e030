"""The plain listener: sends everybody to https, and serves nothing else."""

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.headers import get


def redirect_to(port: int) -> ASGIApp:
    """An app that answers 308 (RFC 9110, 15.4.9: method and body stay) to the same target on https at `port`."""
    suffix = "" if port == 443 else f":{port}"

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if "refusal" in scope:
            status, headers = scope["refusal"].status, []
        else:
            host = (get(scope["headers"], b"host") or b"").decode("latin-1")
            name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
            target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
            status, headers = 308, [(b"location", f"https://{name}{suffix}".encode("latin-1") + target)]
        headers.append((b"content-length", b"0"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    return app
