"""routes.yaml as a test writes it."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent

from gateway.config.load import read
from gateway.config.problems import ConfigError
from gateway.config.settings import Settings

ROOT = Path(__file__).parents[2]
MODEL = "models: {m: {versions: {v1: {endpoints: [http://127.0.0.1:9001]}}}}\n"


def settings_of(text: str, folder: Path | None = None) -> Settings:
    return _read(text, folder)[0]


def warnings_of(text: str) -> list[str]:
    """What is doubtful, as `problems_of` gives what is wrong."""
    return [_without_folder(warning) for warning in _read(text, None)[2]]


def problems_of(text: str) -> list[str]:
    """What is wrong, as it is printed, without the folder; empty if nothing is."""
    try:
        _read(text, None)
    except ConfigError as error:
        return [_without_folder(problem) for problem in error.problems]
    return []


def model(keys: str, endpoints: str = "http://127.0.0.1:9001") -> str:
    """A file with one model, m, whose other keys are the lines of `keys`; they begin at line 3."""
    lines = "".join(f"    {line}\n" for line in dedent(keys).strip("\n").split("\n"))
    return f"models:\n  m:\n{lines}    versions:\n      v1: {{endpoints: [{endpoints}]}}\n"


def _without_folder(problem):
    return re.sub(r"^\S*/(?=routes\.yaml)", "", str(problem))


def _read(text, folder):
    with TemporaryDirectory() as temporary:
        path = (folder or Path(temporary)) / "routes.yaml"
        path.write_text(dedent(text), encoding="utf-8")
        return read(path)
