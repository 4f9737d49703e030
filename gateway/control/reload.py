"""Reload: a changed file becomes a new generation, or nothing changes and every problem is reported."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

from msgspec.structs import replace

from gateway.config.load import read
from gateway.config.problems import ConfigError, Problem, render_key
from gateway.config.settings import Settings
from gateway.control import publish
from gateway.control.jwks import key_of_file, load_files, read_revoked
from gateway.control.keys import load_keys
from gateway.control.publish import Published
from gateway.stores.keyfile import KeyFileError

_log = logging.getLogger("gateway.controller")

Announce = Callable[[Published, Settings], Awaitable[list[str]]]
Validator = Callable[[Settings], Iterable[Problem]]


def prepare(config: Path, before: Published | None, validators: Iterable[Validator] = ()) -> tuple[Published, Settings]:
    """Read and validate everything that `config` (routes.yaml) names, and make the next generation of it. Nothing is
    written. Raises ConfigError."""
    settings, marks, _ = read(config)
    problems = [marks.complete(problem) for validate in validators for problem in validate(settings)]
    keys = b""
    try:
        keys = load_keys(settings.auth.keys).to_wire()
    except FileNotFoundError:
        pass  # no key has been made yet
    except (KeyFileError, OSError) as error:
        problems += [Problem("", 0, "", line) for line in str(error).splitlines()]
    jwks, unusable = key_files(settings, before)
    revoked, unreadable = revoked_tokens(settings)
    problems += map(marks.complete, [*unusable, *unreadable])
    try:
        slots = publish.assign_slots(publish.urls_of(settings), before.slots if before else {})
    except publish.TooManyEndpoints as error:
        problems.append(Problem(str(config), 0, "models", str(error)))
        slots = {}
    if problems:
        raise ConfigError(problems)
    published = Published(
        generation=before.generation + 1 if before else 1,
        settings=settings.model_dump_json().encode(),
        folder=str(config.resolve().parent),
        slots=slots,
        keys=keys,
        jwks=jwks,
        revoked=revoked,
    )
    return published, settings


def key_files(settings: Settings, before: Published | None) -> tuple[dict[str, bytes], list[Problem]]:
    """The keys of issuers, those in files included, and which files cannot be used. An entry that stays as it was is
    not looked at: if its file broke since, its keys stay in use, and nothing else is held up by it."""
    jwks = dict(before.jwks) if before else {}
    known = before.read_settings().auth.jwt if before else []
    problems = []
    for index, entry in enumerate(settings.auth.jwt):
        if entry not in known:
            try:
                jwks |= load_files([entry])
            except ValueError as error:
                problems.append(Problem("", 0, render_key(("auth", "jwt", index, key_of_file(entry))), str(error)))
    return jwks, problems


def revoked_tokens(settings: Settings) -> tuple[dict[str, list[str]], list[Problem]]:
    """The `jti` in each issuer's file of revoked tokens, and which files cannot be used."""
    revoked, problems = {}, []
    for index, entry in enumerate(settings.auth.jwt):
        if entry.revoked_file is not None:
            try:
                revoked[entry.issuer] = read_revoked(entry.revoked_file)
            except (OSError, ValueError) as error:
                problems.append(Problem("", 0, render_key(("auth", "jwt", index, "revoked_file")), str(error)))
    return revoked, problems


class Reloader:
    """The one who makes generations; one at a time."""

    def __init__(self, config: Path, published: Published, announce: Announce, validators: Iterable[Validator]) -> None:
        self.config = config
        self.published = published
        self.settings = published.read_settings()
        self.announce = announce
        self.validators = list(validators)
        self.lock = asyncio.Lock()
        self.reloaded_at = time.time()
        self.problems: list[str] = []  # of the last try

    async def reload(self) -> list[str]:
        """Read everything anew and hand it to the workers; -> what is wrong, empty on success."""
        async with self.lock:
            try:
                published, settings = await asyncio.to_thread(prepare, self.config, self.published, self.validators)
            except ConfigError as error:
                self.problems = [str(problem) for problem in error.problems]
                for problem in self.problems:
                    _log.error("not reloaded: %s", problem)
                return self.problems
            self.problems = await self._hand_out(published, settings)
            return self.problems

    async def replace_jwks(self, jwks: Mapping[str, bytes]) -> None:
        """New keys of issuers, under the same configuration."""
        async with self.lock:
            changed = {**self.published.jwks, **jwks}
            if changed != self.published.jwks:
                generation = self.published.generation + 1
                published = replace(self.published, generation=generation, jwks=changed)
                await self._hand_out(published, self.settings)

    async def _hand_out(self, published: Published, settings: Settings) -> list[str]:
        await asyncio.to_thread(publish.write, settings.gateway.state_dir, published)
        self.published, self.settings = published, settings
        self.reloaded_at = time.time()
        problems = await self.announce(published, settings)
        if not problems:
            _log.info("generation %d is live: %d models", published.generation, len(settings.models))
        return problems
