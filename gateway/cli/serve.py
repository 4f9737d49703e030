"""`gateway serve`: everything that happens before the first process is forked."""

import logging
import os
import secrets
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from gateway import plugin
from gateway.admin.guard import check_exposure, read_token
from gateway.cli.output import fail
from gateway.config.load import load
from gateway.config.problems import ConfigError
from gateway.config.settings import Settings
from gateway.control import publish, reload
from gateway.edge import meters
from gateway.preflight import VALIDATORS
from gateway.server.listeners import Handover, inherited
from gateway.server.master import Master
from gateway.server.worker import SESSION_SECRETS
from gateway.server.zone import Zone
from gateway.stores.table import size_of
from gateway.tls import authority
from gateway.tls.context import limit_groups
from gateway.tls.store import CertificateStore

_log = logging.getLogger("gateway.master")

Config = Annotated[Path, typer.Option("--config", "-c", help="The configuration.")]


def serve(config: Config = Path("routes.yaml")) -> None:
    """Run the gateway until it is told to stop (Ctrl-C or SIGTERM: gracefully; a second time: at once)."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s[%(process)d]: %(message)s"
    )
    for noisy in ("httpx2", "httpcore2", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    plugin.make_importable(config.absolute().parent)
    handover = inherited()
    try:
        published, settings = reload.prepare(config, _published_before(config, handover), VALIDATORS)
    except ConfigError as error:
        fail(str(error))
    try:
        master = _master(config, settings, published, handover)
    except (OSError, ValueError, authority.CannotIssue) as error:
        fail(f"the gateway cannot start: {error}")
    host, port = settings.gateway.https
    _log.info("serving %d models on https://%s:%d with %d workers", len(settings.models), host, port, master.count)
    sys.exit(master.run())


def _published_before(config: Path, handover: Handover | None) -> publish.Published | None:
    """What the predecessor published last: its generation is continued, its endpoints keep their cells in the zone."""
    if handover is None:
        return None
    try:
        return publish.read(load(config).gateway.state_dir)
    except (OSError, msgspec.DecodeError, ConfigError):  # the configuration is read again, and judged, right after
        return None


def _zone(handover: Handover | None) -> Zone:
    """The predecessor's, with all its counts and buckets, if this version reads it; a fresh one otherwise."""
    if handover is not None:
        try:
            return Zone.adopt(handover.zone)
        except ValueError as error:
            _log.warning("%s: buckets and counts begin anew", error)
    return Zone.create(size_of())


def _master(config: Path, settings: Settings, published: publish.Published, handover: Handover | None) -> Master:
    """Raises OSError, ValueError, CannotIssue."""
    check_exposure(settings.gateway.admin[0], read_token(settings.gateway.admin_token_file))
    limit_groups()
    created = authority.ensure(settings.tls.certificates)
    if created is not None:
        _log.info("made a development certificate for %s", ", ".join(created.names))
        print(created.how_to_trust(settings.gateway.https[1]), file=sys.stderr)
    certificates = CertificateStore(settings.tls.certificates, settings.tls)
    for problem in certificates.reload():
        _log.warning("%s", problem)
    state_dir = settings.gateway.state_dir
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    _ensure_secret(state_dir / SESSION_SECRETS)
    master = Master(settings, config, _zone(handover), certificates, handover)
    # Last: a start that fails, because a gateway has the port already, must not disturb that one.
    if handover is None:
        meters.clear(state_dir / "metrics")
    publish.write(state_dir, published)
    return master


def _ensure_secret(path: Path) -> None:
    """The secret that signs session cookies. Several gateways that share clients share this file."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_hex(32).encode())
    except FileExistsError:
        pass
