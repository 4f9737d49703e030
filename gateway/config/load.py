"""routes.yaml -> `Settings`, or every problem of it at once.

Strict at the door: nothing is guessed and nothing is half taken. What is wrong by itself (a type, an unknown key) is
left out before the rules over several keys run, so that one run shows them all and none that is only a consequence.
"""

import os
from collections.abc import Collection, Iterable
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from gateway.config.advice import ADVICE
from gateway.config.document import read_document
from gateway.config.marks import Marks
from gateway.config.problems import ConfigError, Path, Problem
from gateway.config.rules import RULES, Rule
from gateway.config.settings import Settings
from gateway.config.translate import findings
from gateway.garbage import uncollected

_ROUNDS = 12  # of leaving out; each goes one level up at least, and a file has fewer levels than this


def load(path: FilePath) -> Settings:
    """The settings in a file. Raises ConfigError."""
    return read(path)[0]


@uncollected()
def read(path: FilePath) -> tuple[Settings, Marks, list[Problem]]:
    """The settings in a file, where each key stands, and warnings. Raises ConfigError."""
    document = read_document(path, os.environ)
    marks = document.marks
    data = with_defaults(document.data)
    base = path.absolute().parent  # not resolved: a ConfigMap's file is a link into a folder that changes
    problems = set(document.problems)
    broken = list(document.broken)
    try:
        settings = _validate(data, base)
    except ValidationError as error:
        above = _Broken(document.broken).above
        wrong = [finding for finding in findings(error) if marks.origin(finding[0]) not in above]
        problems.update(marks.problem(path, message) for path, message in wrong)
        settings, left_out = _without_errors(data, base, error)
        broken += left_out
    problems.update(_found(RULES, settings, marks, broken))
    if problems:
        raise ConfigError(problems)
    return settings, marks, sorted(_found(ADVICE, settings, marks, ()))


def with_defaults(data: Any) -> Any:
    """Every model, over `defaults`: mappings merge key by key, all else is replaced."""
    if not isinstance(data, dict) or not isinstance(data.get("models"), dict):
        return data
    defaults = data.get("defaults")
    if not isinstance(defaults, dict):
        return data
    models = {name: merged(defaults, model) for name, model in data["models"].items()}
    return {**data, "models": models}


def merged(under: Any, over: Any) -> Any:
    """`over` laid upon `under`; no mapping of the result is shared with `under`."""
    if not isinstance(under, dict) or not isinstance(over, dict):
        return over
    result = {key: merged(value, {}) if isinstance(value, dict) else value for key, value in under.items()}
    for key, value in over.items():
        result[key] = merged(result.get(key), value)
    return result


def _validate(data: Any, base: FilePath) -> Settings:
    return Settings.model_validate(data, context={"base": base})


def _without_errors(data: Any, base: FilePath, error: ValidationError) -> tuple[Settings, list[Path]]:
    """The settings of what is right by itself, and what had to be left out for it."""
    broken: list[Path] = []
    for _ in range(_ROUNDS):
        places = {_smallest_entry(data, path) for path, _ in findings(error)}
        if () in places:
            break
        broken += places
        for place in places:
            _remove(data, place)
        try:
            return _validate(data, base), broken
        except ValidationError as again:
            error = again
    return Settings(), [()]


def _smallest_entry(data: Any, path: Path) -> Path:
    """The deepest entry of a mapping on the way to `path`; within a list, the list's: its other items keep their
    places, which problems name."""
    smallest = 0
    for depth, step in enumerate(path, 1):
        if not isinstance(data, dict) or step not in data:
            break
        smallest, data = depth, data[step]
    return path[:smallest]


def _remove(data: Any, place: Path) -> None:
    for step in place[:-1]:
        if step not in data:
            return
        data = data[step]
    if isinstance(data.get(place[-1]), list) and data[place[-1]]:
        data[place[-1]] = []  # still there: that it is missing would be another mistake
    else:
        data.pop(place[-1], None)


def _found(rules: Iterable[Rule], settings: Settings, marks: Marks, broken: Collection[Path]) -> set[Problem]:
    """What the rules find, without that which rests on something broken."""
    problems, known = set(), _Broken(broken)
    for rule in rules:
        for found in rule(settings):
            if not any(known.touches(need) for need in (found.path, *found.needs)):
                problems.add(marks.problem(found.path, found.message))
    return problems


class _Broken:
    """Places that are left out. As sets: a mistake in `defaults` is one of each of thousands of models."""

    def __init__(self, places: Collection[Path]) -> None:
        self.places = set(places)
        self.above = {place[:depth] for place in places for depth in range(len(place) + 1)}  # they are there, or below

    def touches(self, path: Path) -> bool:
        """Whether one of them is at `path`, below it or above it."""
        return path in self.above or any(path[:depth] in self.places for depth in range(len(path)))
