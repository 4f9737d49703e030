"""What the controller hands to the workers: one file, replaced whole, and a generation in the zone.

The file is all that a worker needs, validated: it is read at a worker's start and when the generation has risen. It
holds hashes of keys and of passwords, and issuers' secrets, and is readable by its owner only.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from gateway.config.settings import ModelSettings, Settings
from gateway.core.snapshot import ENDPOINTS
from gateway.tls.files import write_whole

_FILE = "published"


class TooManyEndpoints(ValueError):
    """The configuration has more endpoints than the zone has cells."""


class Published(msgspec.Struct):
    """One generation. Models are apart from the other settings, so that what did not change can be seen.

    `slots` gives every endpoint's URL its column in the zone; `jwks` every issuer its key set, `revoked` the `jti` of
    its tokens that are refused; `users` every user the hash of his password, `code` every module of plugins a digest.
    """

    generation: int
    settings: bytes  # JSON, all but the models
    folder: str  # where routes.yaml lies: plugins are imported from there
    models: dict[str, bytes] = {}  # JSON of each
    slots: dict[str, int] = {}
    keys: bytes | None = b""  # None: `auth.key_store` has not answered yet
    jwks: dict[str, bytes] = {}
    revoked: dict[str, list[str]] = {}
    users: dict[str, str] = {}
    code: dict[str, str] = {}

    def read_settings(self) -> Settings:
        models = {name: ModelSettings.model_validate_json(text) for name, text in self.models.items()}
        return self.assemble(models)

    def assemble(self, models: Mapping[str, ModelSettings]) -> Settings:
        """The settings, with these models, which were read from `models`."""
        return Settings.model_validate_json(self.settings).model_copy(update={"models": dict(models)})


def text_of(settings: Settings) -> bytes:
    """What to publish of `settings`, but for the models."""
    return settings.model_copy(update={"models": {}}).model_dump_json().encode()


def texts_of_models(settings: Settings) -> dict[str, bytes]:
    """What to publish of each model."""
    return {name: model.model_dump_json().encode() for name, model in settings.models.items()}


def write(state_dir: Path, published: Published) -> None:
    """Replace the file: whole or not at all, also if the machine stops in between."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(state_dir / _FILE, msgspec.msgpack.encode(published), 0o600)


def is_there(state_dir: Path) -> bool:
    """Whether a worker that starts finds something."""
    return (state_dir / _FILE).exists()


def read(state_dir: Path) -> Published:
    """Raises OSError, msgspec.DecodeError."""
    return msgspec.msgpack.decode((state_dir / _FILE).read_bytes(), type=Published)


def urls_of(settings: Settings) -> list[str]:
    """Every endpoint, once, in the order of the file."""
    return list(dict.fromkeys(url for model in settings.models.values() for url in model.urls))


def engines_of(settings: Settings) -> set[str]:
    """The endpoints whose engines are asked for their load."""
    return {
        endpoint.url
        for model in settings.models.values()
        for version in model.versions.values()
        for endpoint in version.endpoints
        if (version.balance or model.balance).engine_metrics is not None
    }


def assign_slots(urls: Iterable[str], before: Mapping[str, int]) -> dict[str, int]:
    """A column for every URL. One that stays keeps its own; a new one takes one that is free, lowest first. A column
    that was just given up is taken last, because an old request may still count there. Raises TooManyEndpoints."""
    wanted = list(urls)
    slots = {url: before[url] for url in wanted if url in before}
    used = set(slots.values())
    resting = set(before.values()) - used
    free = iter([s for s in range(ENDPOINTS) if s not in used and s not in resting] + sorted(resting))
    for url in wanted:
        if url not in slots:
            slot = next(free, None)
            if slot is None:
                raise TooManyEndpoints(f"at most {ENDPOINTS} endpoints are possible, routes.yaml has {len(wanted)}")
            slots[url] = slot
    return slots
