"""The operator's door: health, metrics, status, and the few things that can be told to a running gateway.

| route | what |
|---|---|
| GET /healthz | 200 while the process answers |
| GET /readyz | 200 if traffic should be sent here; 503 with the reasons |
| GET /metrics | Prometheus, OpenMetrics |
| GET /status | everything below `status.py`'s `Status`, as JSON |
| GET / | the dashboard |
| POST /reload | read the configuration again |
| POST /drain?target=…, /undrain?target=… | `gateway`, an endpoint's URL, `model` or `model@version`; a drain may have
  `&deadline=SECONDS`, when bound sessions move on too |
"""

import asyncio
import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from gateway.admin.exposition import render
from gateway.admin.guard import Guard, check_exposure
from gateway.admin.status import describe
from gateway.admin.view import AdminView

T = TypeVar("T")

_PAGE = (Path(__file__).parent / "dashboard.html").read_text("utf-8")


def make_admin(view: AdminView, *, address: str, token: str | None = None) -> Starlette:
    """The app. `address` is the host it will listen on. Raises ValueError if that is not a loopback address and there
    is no token."""
    check_exposure(address, token)
    door = _Door(view)
    routes = [
        Route("/", door.dashboard),
        Route("/healthz", door.health),
        Route("/readyz", door.readiness),
        Route("/metrics", door.metrics),
        Route("/status", door.status),
        Route("/reload", door.reload, methods=["POST"]),
        Route("/drain", door.drain, methods=["POST"]),
        Route("/undrain", door.undrain, methods=["POST"]),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, token=token)])


class _Door:
    """The routes' handlers."""

    def __init__(self, view: AdminView) -> None:
        self.view = view

    async def health(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readiness(self, request: Request) -> Response:
        obstacles = self.view.obstacles()
        if obstacles:
            return PlainTextResponse("".join(f"{obstacle}\n" for obstacle in obstacles), 503)
        return PlainTextResponse("ready\n")

    async def metrics(self, request: Request) -> Response:
        text, content_type = await self._beside(render, request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type})

    async def status(self, request: Request) -> Response:
        return _json(await self._beside(describe))

    async def dashboard(self, request: Request) -> Response:
        state = msgspec.json.encode(await self._beside(describe)).decode()
        # Inside a script element only "<" could end the element (HTML, 4.12.1.3).
        page = _PAGE.replace("{{state}}", state.replace("<", "\\u003c"))
        return HTMLResponse(page, headers=_PAGE_HEADERS)

    async def _beside(self, tell: Callable[..., T], *options: str) -> T:
        """Beside the loop: of 10,000 endpoints that takes 1.5 s, and health checks would not be answered in time."""
        return await asyncio.to_thread(tell, await self.view.totals(), self.view, *options)

    async def reload(self, request: Request) -> Response:
        is_done, said = await self.view.reload()
        body = {"reloaded": is_done, "generation": self.view.generation, "problems": [] if is_done else list(said)}
        if is_done and said:
            body["notes"] = list(said)
        return _json(body, 200 if is_done else 422)

    async def drain(self, request: Request) -> Response:
        given = request.query_params.get("deadline")
        try:
            deadline = float(given) if given is not None else None
        except ValueError:
            deadline = -1.0
        if deadline is not None and not deadline >= 0:  # NaN is not, either
            return _json({"problems": [f"deadline is seconds, not {given}"]}, 400)
        return await self._aim(request, lambda target: self.view.drain(target, deadline))

    async def undrain(self, request: Request) -> Response:
        return await self._aim(request, self.view.undrain)

    async def _aim(self, request: Request, act: Any) -> Response:
        target = request.query_params.get("target")
        if not target:
            problem = "say ?target=: `gateway`, an endpoint's URL, `model` or `model@version`"
            return _json({"problems": [problem]}, 400)
        count = await act(target)
        if not count:
            return _json({"problems": [f"nothing here is called {target}"]}, 404)
        return _json({"target": target, "count": count})


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value) + b"\n", status, media_type="application/json")


def _hashes(page: str, element: str) -> Sequence[str]:
    """CSP sources for the page's own inline elements (CSP level 3, 2.3.1)."""
    bodies = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in bodies)
    return [f"'sha256-{digest}'" for digest in digests]


_PAGE_HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; script-src {' '.join(_hashes(_PAGE, 'script'))}; style-src "
        f"{' '.join(_hashes(_PAGE, 'style'))}; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
