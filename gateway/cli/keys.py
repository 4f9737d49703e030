"""`gateway keys`: make, list and withdraw API keys.

Standard output is for machines: a new key and nothing else, or the listing. What people want to know besides goes to
standard error. Exit codes: 0 done, 1 refused (the text says why), 2 a command that cannot be understood.
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from gateway.cli.output import fail, print_table
from gateway.config.document import read_document
from gateway.config.load import load
from gateway.config.problems import ConfigError
from gateway.config.settings import AuthSettings
from gateway.config.values import parse_duration
from gateway.control.keys import KeyEditError, KeyRing, Wish, editing, find
from gateway.model import Principal
from gateway.stores.keyentry import Key
from gateway.stores.keyfile import KeyFileError, read
from gateway.stores.keys import OwnLimit

keys = typer.Typer(no_args_is_help=True, help="Make, list and withdraw API keys.")

File = Annotated[Path | None, typer.Option("--file", "-f", help="The key file, instead of the configuration's.")]
Config = Annotated[Path, typer.Option("--config", "-c", help="The configuration; its auth.keys is the key file.")]
Who = Annotated[str, typer.Argument(metavar="ID|NAME")]
Models = Annotated[list[str], typer.Option(help="A glob of `model` or `model@version`; repeat it. '*' is every model.")]
Expires = Annotated[str | None, typer.Option(help="How long it is valid: 12h, 90d.")]
_CONFIG = Path("routes.yaml")


class Imported(msgspec.Struct, forbid_unknown_fields=True):
    """A line of what `import` reads."""

    name: str
    key: str
    models: list[str]
    owner: str = ""
    expires: str | None = None
    metadata: dict[str, str] = {}
    limits: list[OwnLimit] = []
    methods: list[str] = []


@keys.command()
def create(
    *,
    name: Annotated[str, typer.Option(help="Who it is for; unique among keys that are not revoked.")],
    models: Models,
    expires: Expires = None,
    owner: Annotated[str, typer.Option(help="Who answers for it, such as a team.")] = "",
    limit: Annotated[list[str] | None, typer.Option(help="Requests it may make: 100/minute; over all models.")] = None,
    token_limit: Annotated[list[str] | None, typer.Option(help="LLM tokens it may use: 50000/minute.")] = None,
    in_flight: Annotated[int | None, typer.Option(help="Requests it may make at one time.", min=1)] = None,
    method: Annotated[list[str] | None, typer.Option(help="By which it may call; all if none is named.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, for plugins and headers; repeat it.")] = None,
    file: File = None,
    config: Config = _CONFIG,
) -> None:
    """Make a key and print it, once: nothing that is kept can show it again."""
    limits = [OwnLimit(rate=rate) for rate in limit or ()]
    limits += [OwnLimit(rate=rate, unit="tokens") for rate in token_limit or ()]
    limits += [OwnLimit(in_flight=in_flight)] if in_flight is not None else []
    methods = [each.upper() for each in method or ()]
    wish = Wish(name, models, owner, _seconds(expires, "--expires"), _pairs(metadata or []), limits, methods)
    with _reported(), editing(_key_file(file, config)) as ring:
        key, secret = ring.create(wish)
    for glob in _unknown(models, config):
        _tell(f"note: {config} has no model or version that {glob!r} fits; aliases do not count")
    _tell(f"Key {key.id} for {key.name}, {_reach(key)}. It is shown this once:")
    typer.echo(secret)


@keys.command("list")
def show_all(
    file: File = None,
    config: Config = _CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object to a line.")] = False,
) -> None:
    """List the keys; never what would open anything."""
    now = time.time()
    found = _read(file, config)
    if as_json:
        for key in found:
            typer.echo(msgspec.json.encode(_shown(key, now)))
        return
    rows = [("ID", "NAME", "MODELS", "CREATED", "EXPIRES", "STATE")]
    for key in found:
        expires = _day(key.expires) if key.expires else "never"
        rows.append((key.id, key.name, " ".join(key.models), _day(key.created), expires, key.state(now)))
    print_table(rows)


@keys.command()
def show(who: Who, file: File = None, config: Config = _CONFIG) -> None:
    """Show what is kept of one key, but for its hash."""
    with _reported():
        found = find(_read(file, config), who)
    typer.echo(msgspec.json.format(msgspec.json.encode(_shown(found, time.time()))))


@keys.command()
def revoke(who: Who, file: File = None, config: Config = _CONFIG) -> None:
    """Accept a key no more; running gateways learn it within a second. Its entry stays, for the logs' sake."""
    with _reported(), editing(_key_file(file, config)) as ring:
        key = ring.revoke(who)
    _tell(f"Key {key.id} of {key.name} is revoked.")


@keys.command()
def rotate(
    who: Who,
    grace: Annotated[str, typer.Option(help="How long the old one is accepted beside the new: 0s, 24h.")] = "24h",
    file: File = None,
    config: Config = _CONFIG,
) -> None:
    """Make a new secret for a key and print it, once. Its id, name, models and limits stay."""
    seconds = _seconds(grace, "--grace") or 0.0
    with _reported(), editing(_key_file(file, config)) as ring:
        key, secret = ring.rotate(who, seconds)
    _tell(f"Key {key.id} of {key.name}; the old one is accepted for {grace} more. The new one is shown this once:")
    typer.echo(secret)


@keys.command("import")
def adopt(
    source: Annotated[str, typer.Argument(help="A file, or - for standard input.")] = "-",
    file: File = None,
    config: Config = _CONFIG,
) -> None:
    """Accept keys that were issued elsewhere, all of them or none.

    Reads one JSON object to a line: {"name": "alice", "key": "sk-…", "models": ["iris"], "owner": "", "expires": "90d"}
    """
    with _reported():
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        with editing(_key_file(file, config)) as ring:
            added = [_import_line(ring, line, number) for number, line in enumerate(text.splitlines(), 1) if line]
    for key in added:
        typer.echo(f"{key.id}\t{key.name}")
    _tell(f"{len(added)} imported.")


def _import_line(ring: KeyRing, line: str, number: int) -> Key:
    try:
        entry = msgspec.json.decode(line, type=Imported)
        lifetime = None if entry.expires is None else parse_duration(entry.expires)
        more = (entry.metadata, entry.limits, [each.upper() for each in entry.methods])
        return ring.adopt(Wish(entry.name, entry.models, entry.owner, lifetime, *more), entry.key)
    except (ValueError, KeyEditError) as error:  # neither says what the key is
        raise KeyEditError(f"line {number}: {error}") from error


def _read(file: Path | None, config: Path) -> Sequence[Key]:
    with _reported():
        try:
            return read(found := _key_file(file, config), os.environ).keys
        except FileNotFoundError:
            _tell(f"{found} is not there: there are no keys yet")
            return ()


def _key_file(file: Path | None, config: Path) -> Path:
    """--file, else what `auth.keys` of the configuration says, else keys.yaml beside it.

    The rest of the configuration may be wrong: a key must be revocable at any time.
    """
    if file is not None:
        return file
    default = Path(AuthSettings().keys)
    if not config.exists():
        return config.parent / default
    auth = (read_document(config, os.environ).data or {}).get("auth")
    if isinstance(auth, dict) and auth.get("key_store"):
        raise KeyEditError(f"{config} has auth.key_store: its keys are changed there; --file names a file")
    named = auth.get("keys") if isinstance(auth, dict) else None
    return config.absolute().parent / (named if isinstance(named, str) else default)


def _unknown(globs: Sequence[str], config: Path) -> list[str]:
    """Those that let nobody in as the configuration is now; none where it says nothing of models, or is wrong."""
    try:
        models = load(config).models
    except ConfigError:
        return []
    names = [(name, version) for name, model in models.items() for version in model.versions]
    return [
        glob for glob in globs if names and not any(Principal("", "", "key", (glob,)).may_call(*name) for name in names)
    ]


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except (KeyEditError, KeyFileError, ConfigError) as error:
        fail(f"error: {error}")
    except OSError as error:
        fail(f"error: {error.filename or 'the key file'}: {error.strerror or error}")


def _shown(key: Key, now: float) -> dict[str, object]:
    fields = msgspec.to_builtins(key)
    accepted = [old["until"] for old in fields.pop("previous", ())]
    del fields["hash"]
    return {**fields, "state": key.state(now), **({"previous_until": accepted} if accepted else {})}


def _seconds(duration: str | None, option: str) -> float | None:
    try:
        return None if duration is None else parse_duration(duration)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    if not all(name and separator for name, separator, _ in pairs):
        raise typer.BadParameter("it is NAME=VALUE", param_hint="--metadata")
    return {name: value for name, _, value in pairs}


def _reach(key: Key) -> str:
    until = f"until {key.expires.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if key.expires else "without an end"
    return f"for {' '.join(key.models)}, {until}"


def _day(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d}"


def _tell(text: str) -> None:
    typer.echo(text, err=True)
