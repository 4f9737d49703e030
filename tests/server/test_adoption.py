"""A generation is taken over a little at a time, and what did not change is the very same object as before."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.app import compiling
from gateway.config.settings import Settings
from gateway.control.publish import Published, text_of, texts_of_models
from gateway.core.snapshot import Route
from gateway.server import adoption
from gateway.server.adoption import Breath, kept, let_go, read_settings


def settings_of(**models: dict[str, Any]) -> Settings:
    return Settings.model_validate({"models": models})


def at(*urls: str, **options: Any) -> dict[str, Any]:
    return {"versions": {"v1": {"endpoints": list(urls)}}, **options}


def published(settings: Settings, generation: int = 1) -> Published:
    return Published(generation, text_of(settings), "/", texts_of_models(settings))


def taken_over(old: Settings, new: Settings) -> Settings:
    """`new` as a worker that has `old` reads it."""
    return asyncio.run(read_settings(published(new, 2), published(old), old, Breath()))


def routes_of(settings: Settings) -> dict[str, Route]:
    nothing: Any = None
    return {name: Route(name, {}, nothing, nothing) for name in settings.models}


A, B = "http://127.0.0.1:1", "http://127.0.0.1:2"


def test_a_model_whose_text_did_not_change_is_the_very_same() -> None:
    old = settings_of(a=at(A), b=at(B))
    new = taken_over(old, settings_of(a=at(A), b=at(B, methods=["GET"]), c=at(A)))
    assert new.models["a"] is old.models["a"]
    assert new.models["b"] is not old.models["b"]
    assert list(new.models) == ["a", "b", "c"]
    assert new == settings_of(a=at(A), b=at(B, methods=["GET"]), c=at(A))


def test_a_model_of_thousands_of_endpoints_is_taken_over_a_few_at_a_time() -> None:
    """10,000 new ones held up a worker's requests for 0.17 s."""
    urls = [f"http://127.0.0.1:{port}" for port in range(1, 3001)]
    settings = taken_over(settings_of(a=at(A)), settings_of(a=at(*urls)))
    assert settings == settings_of(a=at(*urls))
    made: list[str] = []

    class Making:
        def endpoint(self, url: str, *_: Any) -> None:
            made.append(url)

    runtime: Any = Making()
    work = compiling(settings, 1, {url: slot for slot, url in enumerate(urls)}, runtime, {})
    for step in range(1, 61):
        next(work)
        assert len(made) == 50 * step


def test_settings_survive_being_published() -> None:
    settings = Settings.model_validate({"gateway": {"workers": 3}, "models": {"a": at(A), "b": at(B)}})
    assert published(settings).read_settings() == settings


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ({"a": at(A), "b": at(B)}, {"a": at(A), "b": at(B)}, {"a", "b"}),
        ({"a": at(A), "b": at(B)}, {"a": at(A), "b": at(B, methods=["GET"])}, {"a"}),
        ({"a": at(A), "b": at(B)}, {"a": at(A)}, {"a"}),
        ({"a": at(A), "b": at(B)}, {"a": at(A), "b": at(B), "c": at("http://127.0.0.1:3")}, {"a", "b"}),
        # An endpoint has one weight, whoever names it last.
        ({"a": at(A), "b": at(B)}, {"a": at(A), "b": at(A)}, set()),
        # What is read from files, made by plugins or refers to others is made anew.
        ({"a": at("https://127.0.0.1:1")}, {"a": at("https://127.0.0.1:1")}, set()),
        ({"a": at(A, hide=True)}, {"a": at(A, hide=True)}, set()),
        ({"a": at(A, plugins=[{"use": "plugins.example.Example"}])},) * 2 + (set(),),
        ({"a": at(A, upstream_auth={"value_env": "X"})},) * 2 + (set(),),
    ],
)
def test_a_route_is_kept_if_nothing_beneath_it_has_changed(
    old: dict[str, Any], new: dict[str, Any], names: set[str]
) -> None:
    before = settings_of(**old)
    after = taken_over(before, settings_of(**new))
    routes = routes_of(before)
    found = kept(before, after, routes)
    assert set(found) == names
    assert all(found[name] is routes[name] for name in names)


def test_no_route_outlives_what_authentication_is_made_of() -> None:
    before = settings_of(a=at(A))
    after = Settings.model_validate({"auth": {"failures": {"ban": "9s"}}, "models": {"a": at(A)}})
    assert kept(before, taken_over(before, after), routes_of(before)) == {}


def test_long_work_lets_the_loop_serve_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is counted in looks at the clock: each is 0.5 ms."""
    looks = iter(range(10**6))
    monkeypatch.setattr(adoption, "monotonic", lambda: next(looks) * 0.0005)

    async def run() -> int:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(count())
        models = {f"m{number}": at(A) for number in range(100)}
        old, new = settings_of(), settings_of(**models)
        breath = Breath()
        found = await read_settings(replace(published(new)), published(old), old, breath)
        await let_go(list(routes_of(found).values()), breath)
        task.cancel()
        return turns

    assert asyncio.run(run()) >= 200 * 0.5 / 3
