"""A YAML file as plain values, with the line of each, and without what makes YAML dangerous or surprising.

- A key is text as it is written: a version `1.10` stays "1.10". Unquoted scalars are `Plain` text that the key's type
  makes a number or a boolean of, so that `x-team: 42`, `on` and `12:30` mean what they look like.
- `${NAME}` and `${NAME:-default}` are taken from the environment inside scalars, `$${` is a plain `${`. A default is
  for a variable that is unset or empty, as in a shell (POSIX, 2.6.2).
- Duplicate keys and tags are problems. Anchors and merge keys work; how much they may add up to is bounded.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import Reader

from gateway.config.marks import Marks
from gateway.config.problems import ConfigError, Path, Problem, render_key
from gateway.config.values import Plain

MAX_BYTES = 16 * 2**20  # fifty times a file of 500 models with 20 endpoints each
MAX_NODES = 1_000_000  # after every alias is written out; that file has 40,000
MAX_DEPTH = 64  # the contract needs 9, the rest is for the options of plugins

_TAG = "tag:yaml.org,2002:"
_TAGS = {
    ScalarNode: {_TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")},
    SequenceNode: {_TAG + "seq"},
    MappingNode: {_TAG + "map"},
}
_NOTHING = ("", "~", "null", "Null", "NULL")
_VARIABLE = re.compile(r"\$(\$\{)|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|(\$\{)")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is seven times as fast


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says. `problems` are those of its notation; the values at `broken` are missing because of them."""

    data: Any
    marks: Marks
    problems: list[Problem]
    broken: list[Path]


def read_document(path: FilePath, environment: Mapping[str, str]) -> Document:
    """Raises ConfigError for a file that is missing, unreadable, empty, too big or not YAML."""
    root = _compose(_read(path), str(path))
    marks = Marks(str(path), root)
    builder = _Builder(marks, environment)
    data = builder.build(root, ())
    return Document(data, marks, builder.problems, builder.broken)


def _fail(file: str, message: str, line: int = 0) -> ConfigError:
    return ConfigError([Problem(file, line, "", message)])


def _read(path: FilePath) -> str:
    file = str(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise _fail(file, f"is larger than {MAX_BYTES // 2**20} MiB")
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise _fail(file, f"cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise _fail(file, "is not UTF-8", content.count(b"\n", 0, error.start) + 1) from None
    odd = Reader.NON_PRINTABLE.search(text)
    if odd is not None:
        line = text.count("\n", 0, odd.start()) + 1
        raise _fail(file, f"not YAML: U+{ord(odd[0]):04X} is not a printable character", line)
    return text


class Bounded:
    """For a loader that composes by recursion: in C, a deep enough file overruns the stack and ends the process."""

    depth = 0

    def descend_resolver(self, parent: Node | None, _index: Any) -> None:
        self.depth += 1
        if parent is not None and self.depth > MAX_DEPTH:
            raise ComposerError(None, None, f"nested deeper than {MAX_DEPTH}", parent.start_mark)

    def ascend_resolver(self) -> None:
        self.depth -= 1


class _Composer(Bounded, _Loader):  # type: ignore[misc]
    pass


def _compose(text: str, file: str) -> Node:
    loader = _Composer(text)
    try:
        root: Node | None = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(error, text, file) from None
    except yaml.YAMLError as error:
        raise _fail(file, f"not YAML: {error}") from None
    finally:
        loader.dispose()
    if root is None:
        raise _fail(file, "is empty")
    return root


def _not_yaml(error: yaml.MarkedYAMLError, text: str, file: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return _fail(file, f"not YAML: {error.problem}")
    lines = text.split("\n")
    line = lines[min(mark.line, len(lines) - 1)]  # libyaml puts an end without a newline a line further
    hint = error.context
    if "${" in line:
        hint = "inside [ ] and { }, quote what has ${NAME} in it"
    elif line.lstrip(" ").startswith("\t"):
        hint = "YAML indents with spaces, not tabs"
    return _fail(file, f"not YAML: {error.problem}" + (f" ({hint})" if hint else ""), mark.line + 1)


class _Builder:
    """Makes values of nodes, and lists what is wrong on the way."""

    def __init__(self, marks: Marks, environment: Mapping[str, str]) -> None:
        self.marks = marks
        self.environment = environment
        self.problems: list[Problem] = []
        self.broken: list[Path] = []
        self.visited = 0

    def build(self, node: Node, path: Path) -> Any:
        """The value of a node, None where it has none. Raises ConfigError where aliases add up to too much."""
        self._count(1, node)
        if len(path) > MAX_DEPTH:  # an alias to what it is part of
            raise _fail(self.marks.file, f"nested deeper than {MAX_DEPTH}", node.start_mark.line + 1)
        if node.tag not in _TAGS[type(node)]:
            self._refuse(node, path, f"the tag {node.tag.replace(_TAG, '!!')} is not allowed")
            return None
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if isinstance(node, MappingNode):
            return {key.value: self.build(value, (*path, key.value)) for key, value in self._entries(node, path)}
        return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]

    def _count(self, nodes: int, node: Node) -> None:
        self.visited += nodes
        if self.visited > MAX_NODES:
            raise _fail(
                self.marks.file, f"has more than {MAX_NODES} values, aliases included", node.start_mark.line + 1
            )

    def _report(self, node: Node, path: Path, message: str) -> None:
        self.problems.append(Problem(self.marks.file, node.start_mark.line + 1, render_key(path), message))

    def _refuse(self, node: Node, path: Path, message: str) -> None:
        self._report(node, path, message)
        self.broken.append(path)

    def _scalar(self, node: ScalarNode, path: Path) -> str | None:
        text: str = node.value
        is_plain = not node.style  # None in Python's parser, "" in libyaml's
        if "${" not in text:
            if node.tag == _TAG + "null":
                return None
            return Plain(text) if is_plain and node.tag != _TAG + "str" else text
        try:
            text = _VARIABLE.sub(self._variable, text)
        except ValueError as error:
            self._refuse(node, path, str(error))
            return None
        if is_plain:
            return None if text in _NOTHING else Plain(text)
        return text

    def _variable(self, match: re.Match[str]) -> str:
        if match[1]:
            return match[1]
        if match[4]:
            raise ValueError(
                '"${" begins neither ${NAME} nor ${NAME:-default}; write $${ for the characters themselves'
            )
        value = self.environment.get(match[2])
        if match[3] is not None and not value:
            return match[3]
        if value is None:
            raise ValueError(f"the environment variable {match[2]} is not set, and has no default")
        return value

    def _entries(self, node: MappingNode, path: Path) -> list[tuple[ScalarNode, Node]]:
        """The mapping's own entries, then those it merges; also written into the node, for `Marks` and aliases."""
        self._count(len(node.value), node)
        own: dict[str, tuple[ScalarNode, Node]] = {}
        merges = [value for key, value in node.value if key.tag == _TAG + "merge"]
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self._refuse(key, path, "a key must be text")
            elif key.tag != _TAG + "merge" and own.setdefault(key.value, (key, value))[0] is not key:
                first = own[key.value][0].start_mark.line + 1
                self._report(key, (*path, key.value), f"is there twice, first on line {first}")
        node.value = list(own.values())
        for key, value in self._merged(merges, path):
            own.setdefault(key.value, (key, value))
        entries = node.value = list(own.values())
        return entries

    def _merged(self, merges: list[Node], path: Path) -> Iterator[tuple[ScalarNode, Node]]:
        """What `<<` brings in, the strongest first (https://yaml.org/type/merge.html)."""
        for merge in merges:
            for node in merge.value if isinstance(merge, SequenceNode) else [merge]:
                if isinstance(node, MappingNode):
                    yield from self._entries(node, path)
                else:
                    self._refuse(node, (*path, "<<"), "merges mappings only")
