"""`gateway check`: everything that is wrong with a configuration, one line for each problem."""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from gateway.config.load import read
from gateway.config.problems import ConfigError, Problem
from gateway.config.settings import Settings

# Looks at what routes.yaml refers to: plugins, certificates, the file of keys. It need not know lines: a problem with
# an empty `file` gets the line of its `key`.
Validator = Callable[[Settings], Iterable[Problem]]


def check(config: Path, validators: Sequence[Validator] = ()) -> int:
    """Print every problem to standard error, or a summary to standard output. 0: the gateway would take it, 1: not."""
    try:
        settings, marks, warnings = read(config)
        problems = {marks.complete(found) for validator in validators for found in validator(settings)}
        if problems:
            raise ConfigError(problems)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    for warning in warnings:
        print(f"{warning} (warning)", file=sys.stderr)
    print(f"{config}: ok: {_summary(settings)}")
    return 0


def _summary(settings: Settings) -> str:
    models = settings.models.values()
    endpoints = sum(len(version.endpoints) for model in models for version in model.versions.values())
    return f"{_counted(len(models), 'model')}, {_counted(endpoints, 'endpoint')}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
