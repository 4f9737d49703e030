"""keys.yaml: the file that API keys live in. YAML, one key to a line, so that a change is a line in a diff.

    version: 1
    pepper: 4NFk…                # or in the environment, as GATEWAY_KEYS_PEPPER, and not here
    pepper_check: 77d0c1…
    keys:
    - {"id": "…", "name": "alice", "hash": "…", "models": ["iris", "llama@fp8"], "created": "2026-01-01T00:00:00Z"}

What is read here is all of a file, every mistake by its line. Whoever reads one again and again remembers most of it:
`keyreader.py`.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import yaml

from gateway.stores.keyentry import Key, parse_item, refuse_oddities
from gateway.stores.keys import KeyTable, Pepper

PEPPER_VARIABLE = "GATEWAY_KEYS_PEPPER"
_MOST_PROBLEMS = 20  # reported at once
_SHORTEST_PEPPER = 16

_HEADING = """\
# API keys of the gateway, by their hashes alone. `gateway keys` writes this file whole: comments are lost then.
"""


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    version: int = 1
    pepper: str | None = None
    pepper_check: str | None = None


class KeyFileError(Exception):
    """A key file that cannot be used. Its text is one line for each problem, `file:line: what`."""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """The whole of a key file."""

    pepper: Pepper
    pepper_text: str | None  # None: it is in the environment
    keys: Sequence[Key] = field(default=())

    def table(self) -> KeyTable:
        return KeyTable(self.pepper, (row for key in self.keys for row in key.rows()))

    def render(self) -> str:
        lines = [_HEADING, "version: 1\n"]
        if self.pepper_text is not None:
            lines.append(f"pepper: {json.dumps(self.pepper_text)}\n")
        lines.append(f'pepper_check: "{self.pepper.check}"\n')
        lines.append("keys:\n" if self.keys else "keys: []\n")
        # ensure_ascii would write pairs of surrogates, which YAML does not join.
        lines += [f"- {json.dumps(msgspec.to_builtins(key), ensure_ascii=False)}\n" for key in self.keys]
        return "".join(lines)

    def __repr__(self) -> str:
        return f"<KeyFile of {len(self.keys)} keys>"


def parse(text: str, name: str, environ: Mapping[str, str]) -> KeyFile:
    """Read a key file's text. `name` is what errors call it. Raises KeyFileError with everything that is wrong."""
    head, lines, first = divide(text)
    header = _parse_header(head, name)
    pepper = _choose_pepper(header, name, environ)
    problems: list[tuple[int, str]] = []
    found: list[tuple[int, Key]] = []
    for number, item in _items(lines, first):
        try:
            key = parse_item(item)
            refuse_oddities(key)
        except ValueError as error:
            problems.append((number, str(error)))
            if len(problems) == _MOST_PROBLEMS:
                break
        else:
            found.append((number, key))
    problems += _twins(found)
    if problems:
        raise KeyFileError("\n".join(f"{name}:{number}: {what}" for number, what in sorted(problems)[:_MOST_PROBLEMS]))
    return KeyFile(pepper, header.pepper, [key for _, key in found])


def pepper_of(head: list[str], name: str, environ: Mapping[str, str]) -> Pepper:
    """Raises KeyFileError."""
    return _choose_pepper(_parse_header(head, name), name, environ)


def divide(text: str) -> tuple[list[str], list[str], int]:
    """A file's text -> its lines but for the list of keys, which are blank; the lines of that; the first one's
    number."""
    lines = text.split("\n")
    start, end = _find_keys(lines)
    return lines[:start] + [""] * (end - start) + lines[end:], lines[start + 1 : end], start + 2


def _twins(keys: Sequence[tuple[int, Key]]) -> Iterator[tuple[int, str]]:
    """Ids and hashes that two keys have."""
    seen: dict[str, int] = {}
    for number, key in keys:
        twin = next((seen[unique] for unique in key.uniques() if seen.setdefault(unique, number) != number), None)
        if twin is not None:
            yield number, f"has the id or the hash of the key in line {twin}"


def _find_keys(lines: Sequence[str]) -> tuple[int, int]:
    """The lines from `keys:` to the end of its list; both the number of lines if there is no such list."""
    start = next((n for n, line in enumerate(lines) if _KEYS.match(line)), len(lines))
    if start < len(lines) and "[" in lines[start].partition("#")[0]:
        return start, start + 1
    for end in range(start + 1, len(lines)):
        if not lines[end].startswith(("-", " ", "#")) and lines[end].strip():
            return start, end
    return start, len(lines)


_KEYS = re.compile(r"keys:\s*(\[\s*\])?\s*(#.*)?$")


def _parse_header(lines: list[str], name: str) -> _Header:
    try:
        header = msgspec.convert(yaml.load("\n".join(lines), yaml.CSafeLoader) or {}, _Header)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise KeyFileError(f"{name}:{line}: {error.problem}") from error
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise KeyFileError(f"{name}:1: {error}; `keys` must be a list, one key to a line") from error
    if header.version != 1:
        raise KeyFileError(f"{name}:1: version {header.version} is not known, only 1 is")
    return header


def _choose_pepper(header: _Header, name: str, environ: Mapping[str, str]) -> Pepper:
    text = environ.get(PEPPER_VARIABLE) or header.pepper
    source = PEPPER_VARIABLE if environ.get(PEPPER_VARIABLE) else "`pepper`"
    if not text:
        raise KeyFileError(f"{name}:1: needs `pepper`, here or in the environment as {PEPPER_VARIABLE}")
    if len(text) < _SHORTEST_PEPPER:
        raise KeyFileError(f"{name}:1: {source} has fewer than {_SHORTEST_PEPPER} characters")
    pepper = Pepper.of_text(text)
    if header.pepper_check is not None and header.pepper_check != pepper.check:
        raise KeyFileError(f"{name}:1: {source} is not the one that these hashes were made with")
    return pepper


def _items(lines: Sequence[str], first: int) -> Iterator[tuple[int, str]]:
    """Each entry of the list with the number of its first line: what begins with `-`, as far indented as the first."""
    dash = next((line for line in lines if line.lstrip().startswith("-")), "")
    bullet = dash[: len(dash) - len(dash.lstrip())] + "- "
    number, item = first, ""
    for at, line in enumerate(lines, first):
        if line.startswith(bullet):
            if item:
                yield number, item
            number, item = at, line
        elif line.strip() and not line.lstrip().startswith("#"):
            item = f"{item}\n{line}" if item else line
    if item:
        yield number, item


def read(path: Path, environ: Mapping[str, str]) -> KeyFile:
    """Raises KeyFileError; FileNotFoundError if there is none, other OSError if it cannot be read."""
    return parse(text_of(path), str(path), environ)


def text_of(path: Path) -> str:
    """Raises as `read` does."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise KeyFileError(f"{path}:1: is not UTF-8: {error.reason} at byte {error.start}") from error
