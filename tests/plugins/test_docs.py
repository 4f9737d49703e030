"""What docs/plugins.md says is so."""

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from gateway import model, plugin
from gateway.config.load import read

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "plugins.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_template_is_the_example() -> None:
    assert blocks("python")[0] == (ROOT / "plugins" / "example.py").read_text()


def test_the_tests_that_it_shows_pass() -> None:
    names: dict[str, Any] = {}
    for block in blocks("python")[1:]:
        exec(block, names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert len(tests) == 3
    for test in tests:
        test()


@pytest.mark.parametrize("text", blocks("yaml"))
def test_its_configurations_are_taken(text: str, tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text(text)
    settings, _, _ = read(path)
    entries = [entry for served in settings.models.values() for entry in served.plugins]
    assert entries
    for entry in entries:
        plugin.load(entry)
    for entry in settings.plugins:
        plugin.load(entry, is_global=True)


@pytest.mark.parametrize(
    "use", ["ip_filter.IPFilter", "response_cache.ResponseCache", "request_validator.RequestValidator"]
)
def test_every_option_is_described(use: str) -> None:
    module, _, name = use.partition(".")
    options = list(inspect.signature(getattr(importlib.import_module(f"plugins.{module}"), name)).parameters)[1:]
    section = PAGE.partition(f"### {name}\n")[2].partition("\n### ")[0].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == options


def test_what_plugins_may_import_is_there() -> None:
    table = PAGE.partition("| module | offers |")[2].partition("\n\n")[0]
    functions = set(re.findall(r"`(?:await )?(\w+)\(", table))
    assert functions == {"exchange_of", "read_body", "parse_duration", "parse_size"} < set(plugin.__all__)
    for owner, listed in re.findall(r"`(Exchange|Principal)` \(([^)]*)\)", table):
        for name in re.findall(r"`(\w+)`", listed):
            assert name in getattr(model, owner).__slots__
