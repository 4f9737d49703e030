"""Reload: a changed file becomes a new generation, or nothing changes and every problem is reported."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

from msgspec.structs import replace

from gateway.config.load import read
from gateway.config.problems import ConfigError, Problem, render_key
from gateway.config.settings import Settings
from gateway.control import publish
from gateway.control.jwks import key_of_file, load_files, read_revoked
from gateway.control.publish import Published
from gateway.garbage import uncollected
from gateway.stores import htpasswd
from gateway.stores.htpasswd import HtpasswdError
from gateway.stores.keyfile import KeyFileError, text_of
from gateway.stores.keyreader import KeyReader
from gateway.stores.keys import has_rows

_log = logging.getLogger("gateway.controller")

Announce = Callable[[Published, Settings], Awaitable[list[str]]]
Validator = Callable[[Settings], Iterable[Problem]]
Code = Callable[[], dict[str, str]]  # a digest of every module of plugins that is imported


@uncollected()
def prepare(
    config: Path,
    before: Published | None,
    validators: Iterable[Validator] = (),
    code: Code = dict,
    reader: KeyReader | None = None,
) -> tuple[Published, Settings]:
    """Read and validate everything that `config` (routes.yaml) names, and make the next generation of it. Nothing is
    written. `code` says what plugins the validation has imported; `reader` remembers the keys. Raises ConfigError."""
    settings, marks, _ = read(config)
    problems = [marks.complete(problem) for validate in validators for problem in validate(settings)]
    keys: bytes | None = b""
    try:
        keys = keys_of(settings, before, reader or KeyReader())
    except FileNotFoundError:
        pass  # no key has been made yet
    except (KeyFileError, OSError) as error:
        problems += unusable_keys(settings, error)
    users: dict[str, str] = {}
    try:
        users = read_users(settings)
    except (HtpasswdError, OSError) as error:
        problems += unusable_users(settings, error)
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
        settings=publish.text_of(settings),
        folder=str(config.resolve().parent),
        models=publish.texts_of_models(settings),
        slots=slots,
        keys=keys,
        jwks=jwks,
        revoked=revoked,
        users=users,
        code=code(),
    )
    return published, settings


def keys_of(settings: Settings, before: Published | None, reader: KeyReader) -> bytes | None:
    """The table of keys to publish. A store's are what they were: the controller asks it, and nobody waits for it.
    Raises KeyFileError, OSError."""
    store = settings.auth.key_store
    if store is None:
        return reader.take(_text_of_keys(settings.auth.keys, before), str(settings.auth.keys))
    known = before.assemble({}).auth.key_store if before else None
    return before.keys if before and known and (known.use, known.options) == (store.use, store.options) else None


def _text_of_keys(path: Path, before: Published | None) -> str:
    """Where there were keys, a file that is gone or has nothing in it is a volume that is not there, or is about to be
    written: nobody has revoked a key. Who wants none says so: `keys: []`. Raises KeyFileError, OSError."""
    had_keys = before is not None and has_rows(before.keys)
    try:
        text = text_of(path)
    except FileNotFoundError:  # not kept: it would hold all of this reload until garbage is collected
        if had_keys:
            raise KeyFileError(f"{path}: cannot be read: it is gone; the keys that it held stay in use") from None
        raise
    if not text.strip() and had_keys:
        raise KeyFileError(f"{path}: is empty; the keys that it held stay in use")
    return text


def unusable_keys(settings: Settings, error: KeyFileError | OSError) -> list[Problem]:
    if isinstance(error, OSError):
        return [Problem(str(settings.auth.keys), 0, "", f"cannot be read: {error.strerror}")]
    return [Problem("", 0, "", line) for line in str(error).splitlines()]


def read_users(settings: Settings) -> dict[str, str]:
    """The hashes of passwords, by user. Raises HtpasswdError, OSError."""
    return htpasswd.read(settings.auth.htpasswd) if settings.auth.htpasswd is not None else {}


def unusable_users(settings: Settings, error: HtpasswdError | OSError) -> list[Problem]:
    if isinstance(error, OSError):
        return [Problem("", 0, "auth.htpasswd", f"{settings.auth.htpasswd} cannot be read: {error.strerror}")]
    lines = [line.partition(": ") for line in str(error).splitlines()]
    return [Problem(place, 0, "", message) for place, _, message in lines]


def renew_credentials(published: Published, settings: Settings, reader: KeyReader) -> Published:
    """`published` with the keys, users and revoked tokens that the files of its own `settings` hold now; a file that
    cannot be used changes nothing."""
    keys, users = published.keys, published.users
    with contextlib.suppress(KeyFileError, OSError):
        keys = keys_of(settings, published, reader)
    with contextlib.suppress(HtpasswdError, OSError):
        users = read_users(settings)
    revoked, _ = revoked_tokens(settings)
    return replace(published, keys=keys, users=users, revoked={**published.revoked, **revoked})


def keep_running(running: Settings, settings: Settings) -> tuple[Settings, list[str]]:
    """`settings` as far as processes that run can take them over -> and the keys that wait for other processes.

    `gateway` and `tls` are what sockets, processes and the zone were made of: a worker that starts tomorrow must not
    differ from those that run."""
    waiting = []
    for section in ("gateway", "tls"):
        old, new = getattr(running, section), getattr(settings, section)
        waiting += [f"{section}.{key}" for key in type(old).model_fields if getattr(old, key) != getattr(new, key)]
    return settings.model_copy(update={"gateway": running.gateway, "tls": running.tls}), waiting


def key_files(settings: Settings, before: Published | None) -> tuple[dict[str, bytes], list[Problem]]:
    """The keys of issuers, those in files included, and which files cannot be used. An entry that stays as it was is
    not looked at: if its file broke since, its keys stay in use, and nothing else is held up by it."""
    jwks = dict(before.jwks) if before else {}
    known = before.assemble({}).auth.jwt if before else []
    problems = []
    for index, entry in enumerate(settings.auth.jwt):
        if entry not in known or entry.secret_env is not None:  # the process, and with it the variable, may be new
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

    def __init__(
        self,
        config: Path,
        published: Published,
        announce: Announce,
        validators: Iterable[Validator],
        code: Code = dict,
    ) -> None:
        self.config = config
        self.published = published
        self.settings = published.read_settings()
        self.announce = announce
        self.validators = list(validators)
        self.code = code
        self.reader = KeyReader()
        self.lock = asyncio.Lock()
        self.is_emptied = False  # state_dir, and it cannot be filled
        self.problems: list[str] = []  # of the last try
        self.notes: list[str] = []  # what it did not do

    async def reload(self, *, is_forced: bool = True) -> list[str]:
        """Read everything anew and hand it to the workers; -> what is wrong, empty on success. `is_forced` False:
        nothing happens if nothing has changed."""
        async with self.lock:
            self.notes = []
            try:
                published, settings = await asyncio.to_thread(
                    prepare, self.config, self.published, self.validators, self.code, self.reader
                )
            except ConfigError as error:
                self.problems = [str(problem) for problem in error.problems]
                for problem in self.problems:
                    _log.error("not reloaded: %s", problem)
                await self._renew_credentials()
                return self.problems
            settings, waiting = keep_running(self.settings, settings)
            published = replace(published, settings=publish.text_of(settings))
            self.problems = []
            if is_forced or published != replace(self.published, generation=published.generation):
                self.problems = await self._hand_out(published, settings)
                self._note(waiting)
            return self.problems

    def _note(self, waiting: list[str]) -> None:
        if waiting:
            self.notes = [f"{', '.join(waiting)}: takes effect when the gateway is restarted or hands over (SIGUSR2)"]
            _log.warning("%s", self.notes[0])

    async def _renew_credentials(self) -> None:
        """A key is revoked at once, also while routes.yaml has a mistake in it."""
        published = await asyncio.to_thread(renew_credentials, self.published, self.settings, self.reader)
        if published != self.published:
            await self._hand_out(replace(published, generation=published.generation + 1), self.settings)

    async def replace_jwks(self, jwks: Mapping[str, bytes]) -> None:
        """New keys of issuers, under the same configuration."""
        async with self.lock:
            changed = {**self.published.jwks, **jwks}
            if changed != self.published.jwks:
                generation = self.published.generation + 1
                published = replace(self.published, generation=generation, jwks=changed)
                await self._hand_out(published, self.settings)

    async def replace_keys(self, keys: bytes) -> None:
        """New keys of a store, under the same configuration."""
        async with self.lock:
            if keys != self.published.keys:
                published = replace(self.published, generation=self.published.generation + 1, keys=keys)
                await self._hand_out(published, self.settings)

    async def keep(self) -> None:
        """Write what is published once more, if it was removed: a worker could not take a dead one's place."""
        state_dir = self.settings.gateway.state_dir
        if publish.is_there(state_dir):
            self.is_emptied = False
            return
        async with self.lock:
            try:
                await asyncio.to_thread(publish.write, state_dir, self.published)
                _log.warning("%s was emptied, and is filled anew", state_dir)
            except OSError as error:
                if not self.is_emptied:  # it is tried again every second
                    _log.error("%s was emptied, and cannot be filled: %s", state_dir, error.strerror)
                self.is_emptied = True

    async def _hand_out(self, published: Published, settings: Settings) -> list[str]:
        try:
            await asyncio.to_thread(publish.write, settings.gateway.state_dir, published)
        except OSError as error:
            _log.error("not reloaded: %s cannot be written: %s", settings.gateway.state_dir, error.strerror)
            return [f"{settings.gateway.state_dir} cannot be written: {error.strerror}"]
        self.published, self.settings = published, settings
        problems = await self.announce(published, settings)
        if not problems:
            _log.info("generation %d is live: %d models", published.generation, len(settings.models))
        return problems
