"""Tell browsers to come over https only (RFC 6797). A layer that is there only where it is configured."""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config.settings import HstsSettings
from gateway.model import Exchange, Header

_NAME = b"strict-transport-security"


class Hsts:
    """Adds the field to every answer. A model server's own gives way: clients read the first one only (8.1)."""

    def __init__(self, app: ASGIApp, *, settings: HstsSettings) -> None:
        self.app = app
        value = f"max-age={settings.max_age:.0f}"
        value += "; includeSubDomains" if settings.include_subdomains else ""
        value += "; preload" if settings.preload else ""
        self._field: Header = (_NAME, value.encode())

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            exchange: Exchange = scope["exchange"]
            exchange.answer_headers.append(self._field)
            exchange.answer_edits.append(self._without_others)
        return self.app(scope, receive, send)

    def _without_others(self, headers: list[Header]) -> list[Header]:
        ours = self._field
        if ours not in headers:  # a rule of the route took it out, or set another
            return headers
        return [header for header in headers if header[0] != _NAME or header is ours]
