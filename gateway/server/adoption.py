"""Taking over a generation while requests are served: what did not change is kept, the rest is compiled a little at a
time, so that no request waits for a large configuration.

A route is kept if its model is the same and it holds nothing that may have changed beneath it: no plugin or credential
that is read when a chain is made, no TLS toward its endpoints, nothing of other models, and no endpoint that another,
changed model weighs anew.
"""

import asyncio
from collections.abc import Generator, Mapping
from time import monotonic
from typing import TypeVar, cast

from gateway.app import compiling, granted_headers
from gateway.config.settings import ModelSettings, Settings
from gateway.control.publish import Published
from gateway.core.snapshot import Route, Snapshot
from gateway.runtime import Runtime
from gateway.stores.keys import EMPTY, KeyTable

T = TypeVar("T")

_SLICE = 0.002  # seconds of work between two looks at what requests need
_LONG = 100_000  # bytes of a model, a thousand endpoints: 4 ms to read


class Breath:
    """`await breath()` in the middle of long work lets the loop serve, if it is time to."""

    def __init__(self) -> None:
        self.at = monotonic()

    async def __call__(self) -> None:
        if monotonic() - self.at > _SLICE:
            await asyncio.sleep(0)
            self.at = monotonic()

    async def through(self, work: Generator[None, None, T]) -> T:
        """Do work that comes in small steps; -> what it returns."""
        while True:
            try:
                next(work)
            except StopIteration as end:
                return cast(T, end.value)
            await self()


async def read_settings(published: Published, before: Published, known: Settings, breath: Breath) -> Settings:
    """The settings of `published`; a model whose text is as it was `before` is the very one of `known`."""
    models: dict[str, ModelSettings] = {}
    for name, text in published.models.items():
        if before.models.get(name) == text:
            models[name] = known.models[name]
        else:
            read = ModelSettings.model_validate_json
            models[name] = read(text) if len(text) < _LONG else await asyncio.to_thread(read, text)
            await breath()
    return published.assemble(models)


async def read_keys(
    wire: bytes | None, told: Mapping[str, str], before: tuple[KeyTable, bytes] | None, breath: Breath
) -> KeyTable | None:
    """The table of keys that was published; see `KeyTable.reading`."""
    if not wire:
        return EMPTY if wire is not None else None
    return await breath.through(KeyTable.reading(wire, told, before))


async def compile_gradually(
    published: Published, settings: Settings, before: Settings, runtime: Runtime, breath: Breath
) -> Snapshot:
    """The snapshot of `published`; it is not in use yet. Raises PluginError."""
    routes = kept(before, settings, runtime.snapshot.routes)
    return await breath.through(compiling(settings, published.generation, published.slots, runtime, routes))


async def let_go(routes: list[Route], breath: Breath) -> None:
    """Free what an earlier snapshot had, a route at a time; requests that still use one keep it alive themselves."""
    while routes:
        routes.pop()
        await breath()


def kept(old: Settings, new: Settings, routes: Mapping[str, Route]) -> dict[str, Route]:
    """Of `routes`, compiled from `old`, those that serve `new` as well."""
    if any(getattr(old, key) != getattr(new, key) for key in ("gateway", "tls", "auth")):
        return {}
    if granted_headers(old) != granted_headers(new):  # what one model's service may say is kept from clients of all
        return {}
    same = {name: model for name, model in new.models.items() if old.models.get(name) is model}
    changed = {url for name, model in new.models.items() if name not in same for url in model.urls}
    return {name: routes[name] for name, model in same.items() if _is_self_contained(model, changed)}


def _is_self_contained(model: ModelSettings, changed: set[str]) -> bool:
    if model.plugins or model.hide or model.fallback:
        return False
    if model.upstream_auth is not None or model.external is not None:
        return False
    return not any(url in changed or url.startswith("https:") for url in model.urls)
