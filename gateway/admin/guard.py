"""Who may use the operator's door. Probes of an orchestrator always may: they say nothing but yes or no.

With a token, everybody shows it: as a bearer token, or as the password of any user, so that a browser can ask for it.
Without one the door must be on a loopback address, where the danger is a page in the operator's own browser: it can
send requests to 127.0.0.1 under a name of its own (DNS rebinding), so the Host must be one of this machine's, and it
can send forms across sites, so a request with a foreign Origin is refused.
"""

import base64
import hmac
import os
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response

TOKEN_VARIABLE = "GATEWAY_ADMIN_TOKEN"  # noqa: S105 - its name
_SHORTEST = 16  # characters: 64 bits, if it is random hex
_OPEN = frozenset(("/healthz", "/readyz"))
_CHALLENGE = [("www-authenticate", 'Bearer realm="gateway"'), ("www-authenticate", 'Basic realm="gateway"')]


class Guard:
    """ASGI: lets pass who may. `token` is what opens the door; None: anybody on this machine."""

    def __init__(self, app: Any, *, token: str | None) -> None:
        self.app = app
        self._token = token.encode() if token is not None else None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        refusal = self._refuse(scope) if scope["type"] == "http" and scope["path"] not in _OPEN else None
        await (refusal or self.app)(scope, receive, send)

    def _refuse(self, scope: Any) -> Response | None:
        headers = Headers(scope=scope)
        if self._token is not None:
            if not hmac.compare_digest(_presented(headers.get("authorization", "")), self._token):
                response = PlainTextResponse("This needs the admin token.\n", 401)
                for name, value in _CHALLENGE:
                    response.headers.append(name, value)
                return response
        elif not is_loopback(_name(headers.get("host", ""))):
            return PlainTextResponse("This host name is not the gateway's.\n", 403)
        origin = headers.get("origin")
        if origin is not None and _is_foreign(origin, headers.get("host", "")):
            return PlainTextResponse("Pages of other sites have no business here.\n", 403)
        return None

    def __repr__(self) -> str:
        return f"<Guard {'token' if self._token else 'loopback'}>"


def read_token(file: Path | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """The admin token: of the environment, else of the file; None if there is neither. Raises ValueError for one that
    could be guessed, OSError if the file cannot be read."""
    token = environ.get(TOKEN_VARIABLE)
    source = TOKEN_VARIABLE
    if token is None and file is not None:
        token, source = file.read_text("utf-8"), str(file)
    if token is None:
        return None
    token = token.strip()
    if len(token) < _SHORTEST:
        raise ValueError(f"the admin token of {source} is shorter than {_SHORTEST} characters")
    return token


def check_exposure(address: str, token: str | None) -> None:
    """Raises ValueError if anybody on the network could use a door that listens on `address`."""
    if token is None and not is_loopback(address):
        raise ValueError(
            f"gateway.admin listens on {address}, which is not a loopback address: set gateway.admin_token_file or "
            f"{TOKEN_VARIABLE}"
        )


def is_loopback(host: str) -> bool:
    """Whether a name or address always means this machine (RFC 6761, 6.3 for localhost)."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _presented(authorization: str) -> bytes:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode()
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(value, validate=True).partition(b":")[2]
    except ValueError:  # not base64, or not even ASCII
        return b""


def _name(host: str) -> str:
    """A Host field's host, without its port and an IPv6 address' brackets."""
    return host.partition("]")[0][1:] if host.startswith("[") else host.partition(":")[0]


def _is_foreign(origin: str, host: str) -> bool:
    return origin.partition("://")[2] != host
