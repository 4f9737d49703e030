"""Which model and version a request asks for, by what the request itself says (DESIGN, the table of shapes).

Pure: text in, a `Target` out. Order: `x-model` headers, then a model's own host or path prefix, then the path's shape;
an OpenAI path leaves the model to the body (`Target.is_in_body`).
"""

import re
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from urllib.parse import quote

from gateway.core.paths import decode
from gateway.errors import BadRequest, ModelNotFound

_REMEMBERED: Final = 4096  # paths; all are forgotten when there are more

_TF_VERBS: Final = re.compile(rb":(?:predict|classify|regress)\Z")
_OPENAI: Final = re.compile(rb"/v1/(?!models(?:/|\Z)).")


class Target(NamedTuple):
    """A model as a request names it. `head + name [+ /versions/version] + tail` is the path that named it."""

    model: str  # the model's own name; "" while only the body knows
    version: str | None
    path: bytes  # what the upstream sees, before any rewriting
    head: bytes = b""  # set if the name is in the path and passes through
    tail: bytes = b""
    named: str = ""  # the name, as it stands in that path
    spelt: str | None = None  # the version, as it stands in that path
    is_in_body: bool = False  # an OpenAI path: the body may name model and version


@dataclass(slots=True)
class Directory:
    """Every way to reach a model: its names and aliases, hosts and prefixes. Built once for a snapshot."""

    names: dict[str, str] = field(default_factory=dict)  # name or alias -> model
    hosts: dict[str, list[tuple[bytes, str]]] = field(default_factory=dict)  # host ("" for any) -> [(prefix, model)]
    longest: int = 1  # the most segments a known name has
    known: dict[tuple[str, bytes], Target | None] = field(default_factory=dict)  # answers given before

    def add_name(self, name: str, model: str) -> None:
        self.names[name] = model
        self.longest = max(self.longest, name.count("/") + 1)

    def add_match(self, host: str | None, prefix: str | None, model: str) -> None:
        """Reach `model` by host, path prefix, or both; the longest prefix of the most exact host wins."""
        rules = self.hosts.setdefault((host or "").lower(), [])
        rules.append(((prefix or "").rstrip("/").encode(), model))
        rules.sort(key=lambda rule: -len(rule[0]))

    def named(self, text: str) -> tuple[str, str | None]:
        """`name` or `name@version` -> (model, version). Raises ModelNotFound."""
        model = self.names.get(text)
        if model is not None:
            return model, None
        name, separator, version = text.rpartition("@")
        model = self.names.get(name)
        if not separator or model is None or not version:
            raise ModelNotFound(f"The model {text[:200]!r} does not exist.")
        return model, version

    def target(self, host: str, path: bytes, model: str | None, version: str | None) -> Target | None:
        """Where a request goes; `model` and `version` are its x-model headers. None: no model is meant."""
        if model is None and version is None:
            return self._remembered(host, path)
        found = self._by_match(host, path) or self._by_shape(path, is_named=model is not None)
        if model is not None:
            name, arm = self.named(model)
            found = (found or Target("", None, path))._replace(model=name)
            version = arm if version is None else version
        if found is not None and version is not None:
            found = found._replace(version=version)
        return found

    def _remembered(self, host: str, path: bytes) -> Target | None:
        """Clients ask for few paths, again and again."""
        key = (host, path)
        try:
            return self.known[key]
        except KeyError:
            found = self._by_match(host, path) or self._by_shape(path, is_named=False)
        if len(self.known) >= _REMEMBERED:
            self.known.clear()
        self.known[key] = found
        return found

    def _by_match(self, host: str, path: bytes) -> Target | None:
        for name in (host, ""):
            for prefix, model in self.hosts.get(name, ()):
                if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in (b"", b"/"):
                    return Target(model, None, path, is_in_body=_OPENAI.match(path) is not None)
        return None

    def _by_shape(self, path: bytes, *, is_named: bool) -> Target | None:
        if path.startswith(b"/models/"):
            return self._in_path(path, b"/models/", is_stripped=True, is_lenient=is_named)
        if path.startswith(b"/v2/models/"):
            return self._in_path(path, b"/v2/models/", is_stripped=False, is_lenient=is_named)
        if path.startswith(b"/v1/models/"):
            return self._in_path(path, b"/v1/models/", is_stripped=False, is_lenient=is_named)
        if _OPENAI.match(path) is not None:
            return Target("", None, path, is_in_body=True)
        return None

    def _in_path(self, path: bytes, head: bytes, *, is_stripped: bool, is_lenient: bool) -> Target | None:
        rest = path[len(head) :]
        verb = _TF_VERBS.search(rest) if head == b"/v1/models/" else None
        plain = rest[: verb.start()] if verb else rest
        segments = plain.split(b"/")
        count, named = self._longest_name(segments)
        if not count:
            if is_lenient:
                return None
            raise ModelNotFound(f"The model {decode(segments[0])[:200]!r} does not exist.")
        version = None
        after = segments[count:]
        if len(after) >= 2 and after[0] == b"versions" and after[1]:
            version, after = decode(after[1]), after[2:]
        tail = b"".join(b"/" + segment for segment in after) + (rest[verb.start() :] if verb else b"")
        if is_stripped:
            return Target(self.names[named], version, tail or b"/", is_in_body=_OPENAI.match(tail) is not None)
        return Target(self.names[named], version, path, head, tail, named, version)

    def _longest_name(self, segments: list[bytes]) -> tuple[int, str]:
        """The longest known name that the first segments spell: (how many, the name), (0, "") if none does."""
        for count in range(min(self.longest, len(segments)), 0, -1):
            name = "/".join(map(decode, segments[:count]))
            if name in self.names:
                return count, name
        return 0, ""


def as_served(target: Target, model: str, version: str | None) -> bytes:
    """The path that names `model` and `version` as the upstream knows them (version None: as the client chose it, if
    the path names one at all); unchanged where the names are equal already."""
    if version is None and target.spelt is not None:
        version = target.version
    if not target.head or (model == target.named and version == target.spelt):
        return target.path
    arm = f"/versions/{quote(version, safe='')}" if version is not None else ""
    return target.head + f"{quote(model, safe='/')}{arm}".encode() + target.tail


def header_text(value: bytes) -> str:
    """An x-model header's value as text. Raises BadRequest."""
    try:
        return value.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise BadRequest("x-model is not UTF-8.") from None
