"""keys.yaml: the file that API keys live in. YAML, one key to a line, so that a change is a line in a diff.

    version: 1
    pepper: 4NFk…                # or in the environment, as GATEWAY_KEYS_PEPPER, and not here
    pepper_check: 77d0c1…
    keys:
    - {"id": "…", "name": "alice", "hash": "…", "models": ["iris", "llama@fp8"], "created": "2026-01-01T00:00:00Z"}

A line that is also JSON, as all are that we write, is read some thirty times faster than YAML is: that is what makes
100,000 keys load in less than a second. Other YAML is understood one key at a time, hence without anchors.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml
from pydantic import ValidationError

from gateway.config.settings import LimitSettings
from gateway.stores.keys import KeyTable, OwnLimit, Pepper, Row

PEPPER_VARIABLE = "GATEWAY_KEYS_PEPPER"
_MOST_PROBLEMS = 20  # reported at once
_SHORTEST_PEPPER = 16

_HEADING = """\
# API keys of the gateway, by their hashes alone. `gateway keys` writes this file whole: comments are lost then.
"""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Hash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Time = Annotated[datetime, msgspec.Meta(tz=True)]
Glob = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
Method = Annotated[str, msgspec.Meta(pattern="^[A-Z]{1,32}$")]
Globs = Annotated[tuple[Glob, ...], msgspec.Meta(min_length=1)]


class Previous(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """What a rotated key was before, and until when that is still accepted."""

    hash: Hash
    until: Time


class Key(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, frozen=True, gc=False):
    """One key, as its line says it."""

    id: Annotated[str, msgspec.Meta(pattern="^[0-9A-Za-z]{10}$")]
    name: Name
    hash: Hash
    models: Globs  # globs of `model` or `model@version`; ["*"] is every model
    created: Time
    owner: str = ""
    expires: Time | None = None
    revoked: Time | None = None
    previous: tuple[Previous, ...] = ()
    metadata: dict[str, str] = {}
    limits: tuple[OwnLimit, ...] = ()
    methods: tuple[Method, ...] = ()  # by which it may call; empty: all

    def state(self, now: float) -> str:
        """active | rotating | expired | revoked. `now` is seconds since the epoch."""
        if self.revoked is not None:
            return "revoked"
        if self.expires is not None and self.expires.timestamp() <= now:
            return "expired"
        return "rotating" if any(old.until.timestamp() > now for old in self.previous) else "active"

    def rows(self) -> Iterator[Row]:
        """What a table accepts for this key."""
        if self.revoked is not None:
            return
        until = self.expires.timestamp() if self.expires is not None else inf
        grants = None if "*" in self.models else self.models
        claims = {**self.metadata, "owner": self.owner} if self.owner else self.metadata
        more = (claims, self.limits, self.methods)
        yield Row(bytes.fromhex(self.hash), until, self.id, self.name, grants, *more)
        for old in self.previous:
            earlier = min(until, old.until.timestamp())
            yield Row(bytes.fromhex(old.hash), earlier, self.id, self.name, grants, *more)


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
    lines = text.split("\n")
    start, end = _find_keys(lines)
    header = _parse_header(lines[:start] + [""] * (end - start) + lines[end:], name)
    pepper = _choose_pepper(header, name, environ)
    problems: list[str] = []
    keys: list[Key] = []
    seen: dict[str, int] = {}
    for number, item in _items(lines, start + 1, end):
        try:
            key = _parse_item(item)
            _refuse_oddities(key, number, seen)
        except ValueError as error:
            problems.append(f"{name}:{number}: {error}")
            if len(problems) == _MOST_PROBLEMS:
                break
        else:
            keys.append(key)
    if problems:
        raise KeyFileError("\n".join(problems))
    return KeyFile(pepper, header.pepper, keys)


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


def _items(lines: Sequence[str], start: int, end: int) -> Iterator[tuple[int, str]]:
    """Each entry of the list with the number of its first line: what begins with `-`, as far indented as the first."""
    first = next((line for line in lines[start:end] if line.lstrip().startswith("-")), "")
    bullet = first[: len(first) - len(first.lstrip())] + "- "
    number, item = start + 1, ""
    for at in range(start, end):
        line = lines[at]
        if line.startswith(bullet):
            if item:
                yield number, item
            number, item = at + 1, line
        elif line.strip() and not line.lstrip().startswith("#"):
            item = f"{item}\n{line}" if item else line
    if item:
        yield number, item


_decode = msgspec.json.Decoder(Key).decode


def _parse_item(item: str) -> Key:
    """Raises ValueError."""
    if item.startswith('- {"'):
        try:
            return _decode(item[2:])
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            pass  # YAML's own notation after all
    try:
        value = _construct(item)
    except yaml.MarkedYAMLError as error:
        raise ValueError(error.problem) from error
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from error
    return msgspec.convert(value, Key)


def _construct(item: str) -> Any:
    """The one element of a list in YAML."""
    loader = yaml.CSafeLoader(item)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.SequenceNode) or len(node.value) != 1:
            raise ValueError("is not an entry of a list (`- …`)")
        _refuse_twins(node.value[0])
        (value,) = loader.construct_document(node)
    finally:
        loader.dispose()
    if isinstance(value, dict):
        return {name: _to_time(entry) for name, entry in value.items()}
    return value


def _to_time(value: Any) -> Any:
    """A bare date, as YAML has it and people write it, is its first moment in UTC."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    return value


def _refuse_twins(node: yaml.Node) -> None:
    names = [name.value for name, _ in node.value] if isinstance(node, yaml.MappingNode) else []
    twins = {name for name in names if names.count(name) > 1}
    if twins:
        raise ValueError(f"has {', '.join(sorted(twins))} twice")


def _refuse_oddities(key: Key, number: int, seen: dict[str, int]) -> None:
    """Raises ValueError for what no schema says. `seen` remembers the lines of ids and hashes."""
    texts = (key.name, key.owner, *key.models, *key.metadata, *key.metadata.values())
    if not "".join(texts).isprintable():
        raise ValueError("has characters that cannot be printed")
    for limit in key.limits:
        own_limit(limit)
    for unique in (key.id, key.hash, *(old.hash for old in key.previous)):
        if seen.setdefault(unique, number) != number:
            raise ValueError(f"has the id or the hash of the key in line {seen[unique]}")


@lru_cache(maxsize=1024)  # of 100,000 keys, most have the same few
def own_limit(limit: OwnLimit) -> LimitSettings:
    """As a model's limits are written. Raises ValueError."""
    try:
        return LimitSettings.model_validate(msgspec.to_builtins(limit))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise ValueError(f"limits: {first['msg'].removeprefix('Value error, ')}") from None


def read(path: Path, environ: Mapping[str, str]) -> KeyFile:
    """Raises KeyFileError; FileNotFoundError if there is none, other OSError if it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise KeyFileError(f"{path}:1: is not UTF-8: {error.reason} at byte {error.start}") from error
    return parse(text, str(path), environ)
