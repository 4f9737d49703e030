"""`gateway check`: everything that is wrong with a configuration, one line for each problem."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gateway import plugin
from gateway.cli.output import fail
from gateway.config.load import read
from gateway.config.problems import ConfigError, Problem
from gateway.config.settings import Settings
from gateway.preflight import EVERYTHING, WARNINGS

# Looks at what routes.yaml refers to: plugins, certificates, the file of keys. It need not know lines: a problem with
# an empty `file` gets the line of its `key`.
Validator = Callable[[Settings], Iterable[Problem]]


def check_command(
    config: Annotated[Path, typer.Option("--config", "-c", help="The configuration.")] = Path("routes.yaml"),
) -> None:
    """Say everything that is wrong with a configuration and with what it refers to, or that it is fine."""
    try:
        plugin.make_importable(config.absolute().parent)
    except plugin.PluginError as error:
        fail(str(error))
    raise typer.Exit(check(config, EVERYTHING, WARNINGS))


def check(config: Path, validators: Sequence[Validator] = (), advisers: Sequence[Validator] = ()) -> int:
    """Print every problem to standard error, or a summary to standard output. 0: the gateway would take it, 1: not."""
    try:
        settings, marks, warnings = read(config)
        problems = {marks.complete(found) for validator in validators for found in validator(settings)}
        if problems:
            raise ConfigError(problems)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    warnings += sorted(marks.complete(found) for adviser in advisers for found in adviser(settings))
    for warning in warnings:
        print(replace(warning, key=f"warning: {warning.key}" if warning.key else "warning"), file=sys.stderr)
    print(f"{config}: ok: {_summary(settings)}")
    return 0


def _summary(settings: Settings) -> str:
    endpoints = sum(len(model.urls) for model in settings.models.values())
    return f"{_counted(len(settings.models), 'model')}, {_counted(endpoints, 'endpoint')}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
