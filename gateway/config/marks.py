"""Where in routes.yaml each key stands."""

from collections.abc import Iterator
from dataclasses import replace

from yaml.nodes import MappingNode, Node, SequenceNode

from gateway.config.problems import Path, Problem, parse_key, render_key


class Marks:
    """Finds the line of a key. A model's key that the file has in `defaults` only is found there."""

    def __init__(self, file: str, root: Node) -> None:
        self.file = file
        self._root = root
        self._entries: dict[int, dict[str, tuple[Node, Node]]] = {}  # id of a mapping's node -> its key and value nodes

    def locate(self, path: Path | str) -> int:
        """The line of a key, or of the nearest thing around it that is there. `path` may be dotted text."""
        steps = self.origin(parse_key(path) if isinstance(path, str) else path)
        node = self._root
        for key, _ in self._walk(steps):
            node = key
        return node.start_mark.line + 1

    def origin(self, path: Path) -> Path:
        """`path`, or the path in `defaults` that its value was taken from: mappings are merged, nothing else is."""
        if path[:1] != ("models",):
            return path
        node = self._root
        for depth, step in enumerate(path):
            if not isinstance(node, MappingNode):
                return path
            found = self._index(node).get(str(step))
            if found is None:
                twin: Path = ("defaults", *path[2:])
                return twin if depth >= 2 and len(list(self._walk(twin[:depth]))) == depth else path
            node = found[1]
        return path

    def problem(self, path: Path, message: str) -> Problem:
        """A problem with the key at `path`."""
        origin = self.origin(path)
        return Problem(self.file, self.locate(origin), render_key(origin), message)

    def complete(self, problem: Problem) -> Problem:
        """The same problem with the file and line of its key, where it came without."""
        if problem.file or not problem.key:
            return replace(problem, file=problem.file or self.file)
        return self.problem(parse_key(problem.key), problem.message)

    def _walk(self, path: Path) -> Iterator[tuple[Node, Node]]:
        """The nodes that stand for each step, (key, value), as far as the file has them."""
        node = self._root
        for step in path:
            if isinstance(node, MappingNode):
                found = self._index(node).get(str(step))
            elif isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
                found = (node.value[step], node.value[step])
            else:
                return
            if found is None:
                return
            yield found
            node = found[1]

    def _index(self, node: MappingNode) -> dict[str, tuple[Node, Node]]:
        entries = self._entries.get(id(node))
        if entries is None:
            entries = {key.value: (key, value) for key, value in node.value}
            self._entries[id(node)] = entries
        return entries
