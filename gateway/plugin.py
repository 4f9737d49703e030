"""What a plugin is, and how one is loaded.

A plugin is an ASGI middleware: a class, or any callable, that takes the next app first and its options, as keywords,
after it. routes.yaml names it by dotted path or by an entry point of the group `gateway.plugins`. It is foreign code:
whatever it raises while it is found, checked and made becomes a `PluginError`, which says what to mend in one line.

A plugin imports this module, `gateway.model`, `gateway.errors` and starlette, and nothing else of the gateway.
"""

import copy
import hashlib
import importlib
import importlib.metadata
import inspect
import logging
import pkgutil
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.config.values import parse_duration, parse_size
from gateway.core.body import Receiver, Replay
from gateway.errors import ClientLeft
from gateway.model import Exchange

if TYPE_CHECKING:
    from gateway.config.settings import PluginSettings

__all__ = [
    "Factory",
    "PluginError",
    "code",
    "exchange_of",
    "forget_changed",
    "import_changed",
    "is_module",
    "load",
    "load_store",
    "make_importable",
    "parse_duration",
    "parse_size",
    "read_body",
]

_log = logging.getLogger("gateway.plugin")

GROUP = "gateway.plugins"

_noted: dict[str, tuple[Path, str]] = {}  # modules of `plugins`: the file of each, and its digest when imported


_modules: set[str] = set()  # where plugins were found


class PluginError(ValueError):
    """A plugin that cannot be used as routes.yaml has it; the message is one line for the operator."""


class Factory:
    """A plugin with its options, checked: given the next app, it makes the layer."""

    __slots__ = ("_make", "_options", "use")

    def __init__(self, use: str, make: Callable[..., Any], options: Mapping[str, Any]) -> None:
        self.use = use
        self._make = make
        self._options = options

    def __call__(self, app: ASGIApp) -> ASGIApp:
        """The plugin around `app`. Raises PluginError."""
        with _foreign(f"{self.use} cannot be made"):
            layer: Any = self._make(app, **copy.deepcopy(dict(self._options)))
        if not callable(layer):
            raise PluginError(
                f"{self.use} makes a {type(layer).__name__}, which is not an ASGI app: it has no __call__"
            )
        return layer  # type: ignore[no-any-return]  # what it does when called, only a call can tell

    def __repr__(self) -> str:
        return f"<Factory {self.use} {dict(self._options)}>"


def load(settings: "PluginSettings", *, is_global: bool = False) -> Factory:
    """Find the plugin, check its options against its signature, and make it once, in front of nothing.

    `is_global`: it will run before matching, where the model and the caller are not known yet; a plugin with a true
    attribute `needs_route` is refused there. Raises PluginError.
    """
    make = _find(settings.use)
    _modules.add(getattr(make, "__module__", ""))
    _note_files()
    if is_global and getattr(make, "needs_route", False):
        raise PluginError(
            f"{settings.use} must know the model and the caller: it belongs to `plugins` of a model or of `defaults`"
        )
    _check_options(settings.use, make, settings.options)
    factory = Factory(settings.use, make, settings.options)
    factory(_nothing)
    return factory


def load_store(settings: "PluginSettings") -> Any:
    """The store of keys that `settings` name, made by its options. Raises PluginError."""
    make = _find(settings.use)
    _note_files()
    _check_options(settings.use, make, settings.options, is_layer=False)
    with _foreign(f"{settings.use} cannot be made"):
        store: Any = make(**copy.deepcopy(settings.options))
    if not callable(getattr(store, "read", None)):
        raise PluginError(f"{settings.use} makes a {type(store).__name__}, which is no store of keys: it has no `read`")
    return store


def make_importable(folder: Path) -> None:
    """Let the modules of `folder`/plugins be named `plugins.NAME`, beside those of any other such folder.

    `folder` is where routes.yaml is. It goes last on the path, so that nothing in it can stand in for a module that
    the gateway itself imports. Raises PluginError.
    """
    if not (folder / "plugins").is_dir():
        return
    place = str(folder.resolve())
    if place not in sys.path:
        sys.path.append(place)
    importlib.invalidate_caches()
    with _foreign(f"cannot import {folder / 'plugins'}"):
        package = importlib.import_module("plugins")
    package.__path__ = pkgutil.extend_path(package.__path__, "plugins")


def code() -> dict[str, str]:
    """The modules of `plugins` that this process has imported, and a digest of each as it was then."""
    return {name: digest for name, (_, digest) in _noted.items()}


def is_module(name: str) -> bool:
    """It is one of those that plugins were found in, or beside them in `plugins`."""
    return name in _modules or name.startswith("plugins.")


def forget_changed() -> dict[str, ModuleType]:
    """If the file of one module of `plugins` has changed, import all of them anew when next they are named: they may
    use one another. Layers made before keep the old code. -> what was forgotten."""
    importlib.invalidate_caches()  # a file may be new
    if all(_digest(file) == digest for file, digest in _noted.values()):
        return {}
    forgotten = {name: module for name in _noted if (module := sys.modules.pop(name, None)) is not None}
    for name in _noted:
        vars(sys.modules["plugins"]).pop(name.removeprefix("plugins."), None)
    _noted.clear()
    return forgotten


def import_changed() -> None:
    """In a process that has just been forked: what has changed since the parent imported it is imported anew. If that
    fails, a file is being edited: nobody has said yes to it, so the parent's code serves."""
    before = dict(_noted)
    forgotten = forget_changed()
    try:
        for name in forgotten:
            with _foreign(f"cannot import {name}"):
                importlib.import_module(name)
    except PluginError as error:
        _log.error("%s; the plugins stay as they were", error)
        sys.modules.update(forgotten)
        vars(sys.modules["plugins"]).update({name.removeprefix("plugins."): forgotten[name] for name in forgotten})
        _noted.update(before)
    _note_files()


# --- what plugins import ----------------------------------------------------------------------------------------------


def exchange_of(scope: Scope) -> Exchange:
    """What the gateway knows of this request. Outside the gateway (a TestClient): a fresh one, made from the scope."""
    exchange: Exchange | None = scope.get("exchange")
    if exchange is None:
        client = scope.get("client")
        exchange = Exchange(uuid.uuid4().hex, time.monotonic(), client[0] if client else "")
        exchange.path = scope.get("raw_path") or scope.get("path", "").encode()
        scope["exchange"] = exchange
    return exchange


async def read_body(scope: Scope, receive: Receive, limit: int) -> tuple[bytes | None, Receive]:
    """The request's whole body, and the `receive` to hand to the next app, which gives it once more.

    None for a body longer than `limit` bytes; the `receive` then gives what was read and goes on from there. A body
    that was read is kept in `exchange.body`, so that it is read once, however many plugins ask. Raises ClientLeft.
    """
    exchange = exchange_of(scope)
    if exchange.body is not None and isinstance(receive, Receiver):  # else a plugin in front may have changed it
        return (exchange.body if len(exchange.body) <= limit else None), receive
    if _declared_length(scope) > limit:
        return None, receive
    parts, size, is_more = [], 0, True
    while is_more and size <= limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        is_more = message.get("more_body", False)
    body = b"".join(parts)
    if size > limit:
        return None, _replay(body, is_more, receive)
    exchange.body = body
    return body, Replay(body, receive)


def _replay(body: bytes, is_more: bool, receive: Receive) -> Receive:
    read: list[Message] = [{"type": "http.request", "body": body, "more_body": is_more}]

    async def again() -> Message:
        return read.pop() if read else await receive()

    return again


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


# --- finding and checking ---------------------------------------------------------------------------------------------


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """The next app of a plugin that is made only to see whether it can be."""


@contextmanager
def _foreign(failure: str) -> Iterator[None]:
    """Around foreign code, at the door: all that it may raise, SystemExit too, becomes one line."""
    try:
        yield
    except (ValueError, TypeError, ImportError) as error:
        raise PluginError(f"{failure}: {error or type(error).__name__}") from error
    except (Exception, SystemExit) as error:  # foreign code is found and made here
        frames = traceback.extract_tb(error.__traceback__)
        place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
        raise PluginError(f"{failure}: {type(error).__name__}: {error}{place}") from error


def _find(use: str) -> Callable[..., Any]:
    module_name, dot, name = use.rpartition(".")
    if not dot:
        return _entry_point(use)
    with _foreign(f"cannot import {module_name}"):
        module = importlib.import_module(module_name)
        found = getattr(module, name, None)
    known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    if found is None:
        raise PluginError(f"{module_name} has no {name!r}{_nearest(name, known)}")
    if not callable(found):
        raise PluginError(f"{use} is a {type(found).__name__}, not a class{_nearest(name, known)}")
    return found  # type: ignore[no-any-return]


def _note_files() -> None:
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.startswith("plugins.") and file and name not in _noted:
            _noted[name] = (Path(file), _digest(Path(file)))


def _digest(file: Path) -> str:
    """Of its content, not its times: a file that was only touched has not changed. "" for one that is gone."""
    try:
        return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
    except OSError:
        return ""


def _entry_point(name: str) -> Callable[..., Any]:
    points = importlib.metadata.entry_points(group=GROUP)
    chosen = {point.name: point for point in points}.get(name)
    if chosen is None:
        nearest = _nearest(name, {point.name for point in points})
        raise PluginError(f"{name!r} is neither a dotted path nor an entry point of the group {GROUP}{nearest}")
    with _foreign(f"cannot import {chosen.value}"):
        found = chosen.load()
    if not callable(found):
        raise PluginError(f"{chosen.value} is a {type(found).__name__}, not a class")
    return found  # type: ignore[no-any-return]


def _check_options(use: str, make: Callable[..., Any], options: Mapping[str, Any], *, is_layer: bool = True) -> None:
    """Names only, against the signature, for a better message than a call would give; a layer is given the next app
    first. Raises PluginError."""
    try:
        parameters = list(inspect.signature(make).parameters.values())
    except (TypeError, ValueError):  # written in C without a signature: the call decides
        return
    if is_layer and (not parameters or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY):
        raise PluginError(f"{use} does not take the next app as its first argument: it is not an ASGI middleware")
    named = {p.name: p for p in parameters[is_layer:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    unknown = [name for name in options if name not in named]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        raise PluginError(f"{use} has no option {unknown[0]!r}{_nearest(unknown[0], named)}")
    missing = [repr(name) for name, p in named.items() if p.default is p.empty and name not in options]
    if missing:
        raise PluginError(f"{use} needs the option {' and '.join(missing)}")


def _nearest(name: str, known: Collection[str]) -> str:
    close = get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there is {', '.join(sorted(known))}" if known else ""
