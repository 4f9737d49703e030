"""What is wrong with a file of the configuration, and where: one line per problem, all of them at once."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

Path = tuple[str | int, ...]  # a place in a document: keys of mappings, indices of lists

_BARE = re.compile(r"[^\s.\[\]\"]+")
_STEP = re.compile(r'\[(\d+)\]|("(?:[^"\\]|\\.)*")|([^\s.\[\]"]+)')


def render_key(path: Path) -> str:
    """`("models", "a.b", "limits", 0)` -> `models."a.b".limits[0]`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            dot = "." if text else ""
            text += dot + (step if _BARE.fullmatch(step) else json.dumps(step, ensure_ascii=False))
    return text


def parse_key(key: str) -> Path:
    """The inverse of `render_key`."""
    return tuple(
        int(index) if index else json.loads(quoted) if quoted else bare for index, quoted, bare in _STEP.findall(key)
    )


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing to put right. `line` counts from 1; 0, and an empty `file`, stand for "not known here"."""

    file: str
    line: int
    key: str  # dotted, as `render_key` writes it; "" for the file as a whole
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (place, self.key, self.message) if part)


class ConfigError(Exception):
    """A configuration that cannot be used; `problems` are all there are, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)
