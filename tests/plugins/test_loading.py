"""How a plugin is named, checked and made; what its author may import."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.middleware.cors import CORSMiddleware
from starlette.testclient import TestClient

import plugins
from gateway import plugin
from gateway.config.settings import PluginSettings
from gateway.errors import ClientLeft, Forbidden
from gateway.model import Exchange
from gateway.plugin import (
    PluginError,
    code,
    exchange_of,
    forget_changed,
    import_changed,
    load,
    make_importable,
    read_body,
)
from plugins.example import Example
from plugins.ip_filter import IPFilter
from tests.plugins.driver import Model, an_exchange, asked

SAMPLE = """
class Sample:
    def __init__(self, app, *, limit, names=()):
        if limit < 0:
            raise ValueError(f"limit must not be {limit}")
        self.app, self.limit, self.names = app, limit, names
        names and names.append("made")
    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)

class Positional(Sample):
    def __init__(self, app, limit=1, /):
        pass

class Anything:
    def __init__(self, app, **options):
        self.options = options
    async def __call__(self, scope, receive, send): pass

class NoApp:
    def __init__(self, *, limit=1): pass

class NotCallable:
    def __init__(self, app): pass

class Leaving:
    def __init__(self, app):
        raise SystemExit(3)

class Broken:
    def __init__(self, app):
        {}["x"]

def made(app, *, limit=1):
    return Sample(app, limit=limit)

NUMBER = 5
"""


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of plugins; its name."""
    name = f"sample_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(SAMPLE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder `plugins` of a user; what is imported meanwhile is forgotten."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "__path__", list(plugins.__path__))
    before, children = dict(sys.modules), dict(vars(plugins))
    folder = tmp_path / "plugins"
    folder.mkdir()
    yield folder
    for name in [name for name in sys.modules if name.startswith("plugins.")]:
        del sys.modules[name]
    for name in vars(plugins).keys() - children.keys():
        delattr(plugins, name)
    sys.modules.update({name: module for name, module in before.items() if name.startswith("plugins.")})
    vars(plugins).update(children)
    plugin._noted.clear()


def loaded(use: str, **options: Any) -> Any:
    """As a configuration is validated: from the files as they are now."""
    forget_changed()
    return load(PluginSettings(use=use, **options))


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    pass


def test_a_plugin_gets_the_next_app_first_and_its_options_as_keywords(sample: str) -> None:
    layer = loaded(f"{sample}.Sample", limit=3)(nothing)
    assert (layer.app, layer.limit) == (nothing, 3)


def test_a_function_that_makes_a_layer_is_a_plugin(sample: str) -> None:
    assert loaded(f"{sample}.made", limit=4)(nothing).limit == 4


def test_a_plugin_may_take_any_options(sample: str) -> None:
    assert loaded(f"{sample}.Anything", one=1, two=2)(nothing).options == {"one": 1, "two": 2}


def test_two_layers_of_one_plugin_share_no_option(sample: str) -> None:
    factory = loaded(f"{sample}.Sample", limit=1, names=["a"])
    assert factory(nothing).names == ["a", "made"]
    assert factory(nothing).names == ["a", "made"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Sample", {}, "needs the option 'limit'"),
        ("Sample", {"limt": 1}, "has no option 'limt'; did you mean 'limit'?"),
        ("Sample", {"limit": 1, "zzz": 1}, "has no option 'zzz'; there is limit, names"),
        ("Sample", {"limit": 1, "app": 1}, "has no option 'app'; there is limit, names"),
        ("Positional", {"limit": 1}, "has no option 'limit'"),
        ("Sample", {"limit": -1}, "cannot be made: limit must not be -1"),
        ("Sample", {"limit": "x"}, "cannot be made: '<' not supported"),
        ("Sampel", {}, "has no 'Sampel'; did you mean 'Sample'?"),
        ("NUMBER", {}, "is a int, not a class"),
        ("NoApp", {}, "does not take the next app as its first argument"),
        ("NotCallable", {}, "which is not an ASGI app"),
        ("Leaving", {}, "cannot be made: SystemExit: 3"),
        ("Broken", {}, "cannot be made: KeyError: 'x' (sample_"),
    ],
)
def test_what_is_wrong_with_a_plugin_is_said_in_one_line(
    sample: str, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PluginError) as refused:
        loaded(f"{sample}.{name}", **options)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import not_there_at_all", "No module named 'not_there_at_all'"),
        ("def", "SyntaxError"),
        ("raise SystemExit(1)", "SystemExit"),
        ("{}['key']", "KeyError: 'key' (broken_"),
    ],
)
def test_a_module_that_cannot_be_imported_is_a_plugin_error(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"broken_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError) as refused:
        loaded(f"{name}.Plugin")
    assert f"cannot import {name}: " in str(refused.value)
    assert message in str(refused.value)


@pytest.mark.parametrize("use", ["no_such_module_here.Plugin", ".Relative", "plugins.", "x"])
def test_a_name_that_leads_nowhere_is_a_plugin_error(use: str) -> None:
    with pytest.raises(PluginError):
        loaded(use)


def test_an_entry_point_names_a_plugin(sample: str, tmp_path: Path) -> None:
    info = tmp_path / "sample-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[gateway.plugins]\nsampled = {sample}:Sample\nbad = {sample}:NUMBER\n")
    assert loaded("sampled", limit=9)(nothing).limit == 9
    with pytest.raises(PluginError, match="did you mean 'sampled'"):
        loaded("samled", limit=9)
    with pytest.raises(PluginError, match="not a class"):
        loaded("bad")


def test_plugins_beside_routes_yaml_join_those_that_are_there(beside: Path) -> None:
    (beside / "__init__.py").write_text("")
    (beside / "of_the_user.py").write_text(SAMPLE)
    (beside.parent / "json.py").write_text("raise RuntimeError('stands in for the library')")
    make_importable(beside.parent)
    make_importable(beside.parent)
    assert loaded("plugins.of_the_user.Sample", limit=2)(nothing).limit == 2
    assert isinstance(loaded("plugins.example.Example")(nothing), Example)
    assert sys.path[-1] == str(beside.parent)
    assert sys.path.count(str(beside.parent)) == 1


PLUGIN = """
from plugins import changing_help
from plugins.changing_help import ANSWER

class Plugin:
    def __init__(self, app):
        self.said = ANSWER, changing_help.ANSWER
    async def __call__(self, scope, receive, send): pass
"""


def test_a_changed_file_of_plugins_is_imported_anew_with_all_that_use_it(beside: Path) -> None:
    (beside / "changing_help.py").write_text("ANSWER = 'first'")
    (beside / "changing.py").write_text(PLUGIN)
    make_importable(beside.parent)
    before = loaded("plugins.changing.Plugin")
    assert before(nothing).said == ("first", "first")
    assert type(loaded("plugins.changing.Plugin")(nothing)) is type(before(nothing)), "nothing has changed"
    (beside / "changing_help.py").write_text("ANSWER = 'the second'")
    assert loaded("plugins.changing.Plugin")(nothing).said == ("the second", "the second")
    assert before(nothing).said == ("first", "first")


def test_a_changed_file_of_plugins_that_is_broken_or_gone_is_noticed(beside: Path) -> None:
    (beside / "changing_help.py").write_text("ANSWER = 'first'")
    (beside / "changing.py").write_text(PLUGIN)
    make_importable(beside.parent)
    loaded("plugins.changing.Plugin")
    (beside / "changing_help.py").write_text("broken(")
    with pytest.raises(PluginError, match="SyntaxError"):
        loaded("plugins.changing.Plugin")
    (beside / "changing_help.py").write_text("ANSWER = 'mended'")
    assert loaded("plugins.changing.Plugin")(nothing).said == ("mended", "mended")
    (beside / "changing_help.py").unlink()
    with pytest.raises(PluginError, match=r"cannot import plugins\.changing: "):
        loaded("plugins.changing.Plugin")


def test_a_forked_process_takes_changed_code_and_keeps_what_it_had_while_a_file_is_broken(beside: Path) -> None:
    (beside / "changing_help.py").write_text("ANSWER = 'first'")
    (beside / "changing.py").write_text(PLUGIN)
    make_importable(beside.parent)
    use = PluginSettings(use="plugins.changing.Plugin")
    loaded("plugins.changing.Plugin")
    first = code()
    (beside / "changing_help.py").write_text("broken(")
    import_changed()
    assert load(use)(nothing).said == ("first", "first")  # type: ignore[attr-defined]
    assert code() == first
    (beside / "changing_help.py").write_text("ANSWER = 'second'")
    import_changed()
    assert load(use)(nothing).said == ("second", "second")  # type: ignore[attr-defined]
    changed = {name for name, digest in code().items() if first[name] != digest}
    assert changed == {"plugins.changing_help"}


def test_a_file_that_is_only_touched_has_not_changed(beside: Path) -> None:
    (beside / "changing_help.py").write_text("ANSWER = 'first'")
    (beside / "changing.py").write_text(PLUGIN)
    make_importable(beside.parent)
    loaded("plugins.changing.Plugin")
    os.utime(beside / "changing_help.py", (1, 1))
    assert forget_changed() == {}


def test_a_file_that_is_added_to_plugins_is_found(beside: Path) -> None:
    make_importable(beside.parent)
    with pytest.raises(PluginError):
        loaded("plugins.added.Sample", limit=1)
    (beside / "added.py").write_text(SAMPLE)
    assert loaded("plugins.added.Sample", limit=1)(nothing).limit == 1


def test_a_folder_without_plugins_changes_nothing(tmp_path: Path) -> None:
    before = list(sys.path)
    make_importable(tmp_path)
    assert sys.path == before


def test_a_plugin_that_must_know_the_caller_is_refused_where_nobody_is_known_yet() -> None:
    settings = PluginSettings(use="plugins.response_cache.ResponseCache", ttl="1m")
    load(settings)
    with pytest.raises(PluginError, match="must know the model and the caller"):
        load(settings, is_global=True)


def test_starlettes_cors_middleware_is_a_plugin_as_it_is() -> None:
    factory = loaded(
        "starlette.middleware.cors.CORSMiddleware", allow_origins=["https://app.example"], allow_methods=["POST"]
    )
    layer = factory(Model())
    assert isinstance(layer, CORSMiddleware)
    headers = {"origin": "https://app.example", "access-control-request-method": "POST"}
    preflight = asked(layer, headers=headers, method="OPTIONS")
    assert preflight.get("access-control-allow-origin") == "https://app.example"
    simple = asked(layer, b"{}", {"origin": "https://app.example"})
    assert (simple.body, simple.get("access-control-allow-origin")) == (b"1:{}", "https://app.example")
    assert asked(layer, b"{}", {"origin": "https://evil.example"}).get("access-control-allow-origin") is None
    with pytest.raises(PluginError, match="has no option 'allow_origin'; did you mean 'allow_origins'"):
        loaded("starlette.middleware.cors.CORSMiddleware", allow_origin=[])


def test_the_example_says_hello() -> None:
    layer = loaded("plugins.example.Example", greeting="good morning")(Model())
    assert asked(layer, b"x").get("x-example") == "good morning anonymous"
    with pytest.raises(PluginError, match="does not fit into a header"):
        loaded("plugins.example.Example", greeting="a\r\nb: c")


def test_a_plugin_runs_under_starlettes_test_client() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": exchange_of(scope).path})

    client = TestClient(IPFilter(app, deny=["192.0.2.0/24"]), client=("198.51.100.7", 1))
    assert client.get("/a%20b").text == "/a%20b"
    stranger = TestClient(IPFilter(app, deny=["192.0.2.0/24"]), client=("192.0.2.7", 1))
    with pytest.raises(Forbidden):
        stranger.get("/")


# --- read_body --------------------------------------------------------------------------------------------------------


class Reader:
    """A layer that reads the body, within a limit, and hands it on."""

    def __init__(self, app: Any, limit: int) -> None:
        self.app = app
        self.limit = limit
        self.seen: bytes | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen, receive = await read_body(scope, receive, self.limit)
        await self.app(scope, receive, send)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_a_body_that_was_read_reaches_the_next_app(parts: int) -> None:
    model = Model()
    first = Reader(Reader(model, 100), 100)
    exchange = an_exchange()
    asked(first, b"hello world", exchange=exchange, parts=parts)
    assert first.seen == first.app.seen == exchange.body == b"hello world"
    assert model.requests == [b"hello world"]


@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize("headers", [{}, {"content-length": "55"}])
def test_a_body_beyond_the_limit_passes_by_whole(parts: int, headers: dict[str, str]) -> None:
    model = Model()
    first = Reader(model, 10)
    exchange = an_exchange()
    asked(first, b"hello world" * 5, headers, exchange=exchange, parts=parts)
    assert first.seen is None
    assert exchange.body is None
    assert model.requests == [b"hello world" * 5]


def test_a_body_that_says_it_is_too_long_is_not_waited_for() -> None:
    async def receive() -> Any:
        raise AssertionError("it was")

    scope = {"headers": [(b"content-length", b"11")], "exchange": an_exchange()}
    assert asyncio.run(read_body(scope, receive, 10)) == (None, receive)


def test_a_body_read_before_by_one_with_a_larger_limit_is_still_too_long_for_a_smaller_one() -> None:
    model = Model()
    inner = Reader(model, 5)
    asked(Reader(inner, 100), b"hello world")
    assert inner.seen is None
    assert model.requests == [b"hello world"]


def test_a_client_that_leaves_inside_its_body_ends_the_reading() -> None:
    messages = [{"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0)

    with pytest.raises(ClientLeft):
        asyncio.run(read_body({"headers": [], "exchange": an_exchange()}, receive, 10))


def test_what_follows_a_body_that_was_read_is_the_connections_own_news() -> None:
    async def run() -> list[str]:
        messages: list[Any] = [{"type": "http.request", "body": b"a"}, {"type": "http.disconnect"}]

        async def receive() -> Any:
            return messages.pop(0)

        _, again = await read_body({"headers": [], "exchange": an_exchange()}, receive, 10)
        return [(await again())["type"], (await again())["type"]]

    assert asyncio.run(run()) == ["http.request", "http.disconnect"]


def test_the_exchange_of_the_gateway_is_the_one_a_plugin_gets() -> None:
    exchange = Exchange("r", 0.0, "192.0.2.1")
    assert exchange_of({"exchange": exchange}) is exchange
    scope = {"type": "http", "path": "/x", "headers": [], "client": ("192.0.2.9", 1)}
    assert exchange_of(scope).client_ip == "192.0.2.9"
    assert exchange_of(scope) is exchange_of(scope)
