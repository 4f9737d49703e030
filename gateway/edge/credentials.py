"""What the model server is shown instead of the caller's credential: a key of its own, or, where that is wanted, the
credential as it came."""

import os
import re
from collections.abc import Awaitable

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config.settings import UpstreamAuth
from gateway.edge.authenticate import CREDENTIALS
from gateway.model import Header

_KEPT = "gateway.credentials"
_LONGEST = 16 * 1024  # bytes
_VALUE = re.compile(rb"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")  # RFC 9110, 5.5, without obs-text


def read_credential(settings: UpstreamAuth) -> Header:
    """The field that proves the gateway to the model server. Raises ValueError, which never says what the value is."""
    if settings.value_file is not None:
        try:
            with settings.value_file.open("rb") as file:
                value = file.read(_LONGEST + 1).strip()
        except OSError as error:
            raise ValueError(str(error)) from error
        place = str(settings.value_file)
    else:
        place = f"the variable {settings.value_env}"
        value = os.environ.get(settings.value_env or "", "").encode().strip()
        if not value:
            raise ValueError(f"{place} is not set, or empty")
    if len(value) > _LONGEST or not _VALUE.fullmatch(value):
        raise ValueError(f"{place} is empty, longer than {_LONGEST} bytes or has what a header cannot hold")
    scheme = settings.scheme.encode()
    return settings.header.encode(), scheme + b" " + value if scheme else value


class ReplaceCredential:
    """Right before the request is sent, so that no plugin sees the key and no rule about headers loses it."""

    def __init__(self, app: ASGIApp, *, header: Header) -> None:
        self.app = app
        self._header = header
        self._name = header[0].replace(b"_", b"-")  # CGI, and so many a model server, cannot tell them apart

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        name = self._name
        headers = [header for header in scope["headers"] if header[0].replace(b"_", b"-") != name]
        headers.append(self._header)
        scope["headers"] = headers
        return self.app(scope, receive, send)

    def __repr__(self) -> str:
        return f"<ReplaceCredential in {self._name.decode()}>"


class KeepCredential:
    """In front of authentication, which takes the credential out: `PassCredential` behind it puts it back."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope[_KEPT] = [header for header in scope["headers"] if header[0] in CREDENTIALS]
        return self.app(scope, receive, send)


class PassCredential:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope["headers"] = [*scope["headers"], *scope.pop(_KEPT)]
        return self.app(scope, receive, send)
