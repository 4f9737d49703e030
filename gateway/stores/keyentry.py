"""One entry of a key file: what it may say, and how it is read.

A line that is also JSON, as all are that we write, is read some thirty times faster than YAML is. Other YAML is
understood one key at a time, hence without anchors.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import lru_cache
from math import inf
from typing import Annotated, Any

import msgspec
import yaml
from pydantic import ValidationError

from gateway.config.settings import LimitSettings
from gateway.stores.keys import OwnLimit, Row

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

    def uniques(self) -> tuple[str, ...]:
        """What no other key may have."""
        return self.id, self.hash, *(old.hash for old in self.previous)

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


_decode = msgspec.json.Decoder(Key).decode


def parse_item(item: str) -> Key:
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


def refuse_oddities(key: Key) -> None:
    """Raises ValueError for what no schema says."""
    texts = (key.name, key.owner, *key.models, *key.metadata, *key.metadata.values())
    if not "".join(texts).isprintable():
        raise ValueError("has characters that cannot be printed")
    for limit in key.limits:
        own_limit(limit)


@lru_cache(maxsize=1024)  # of 100,000 keys, most have the same few
def own_limit(limit: OwnLimit) -> LimitSettings:
    """As a model's limits are written. Raises ValueError."""
    try:
        return LimitSettings.model_validate(msgspec.to_builtins(limit))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise ValueError(f"limits: {first['msg'].removeprefix('Value error, ')}") from None
