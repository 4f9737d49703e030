"""`gateway serve`: everything that happens before the first process is forked."""

import errno
import logging
import os
import resource
import secrets
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from gateway import plugin
from gateway.admin.guard import check_exposure, read_token
from gateway.cli.output import fail
from gateway.config.problems import ConfigError
from gateway.config.settings import Settings
from gateway.control import publish, reload
from gateway.core.session import Sessions, secrets_in
from gateway.edge import meters
from gateway.edge.journal import open_log
from gateway.preflight import VALIDATORS, key_warnings
from gateway.server.listeners import Handover, inherited
from gateway.server.log import StandardError
from gateway.server.lookups import widen
from gateway.server.master import Master, worker_count
from gateway.server.state import SESSION_SECRETS, ensure_secret
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
        level=logging.INFO,
        handlers=[StandardError()],
        format="%(asctime)s %(levelname)-7s %(name)s[%(process)d]: %(message)s",
    )
    for noisy in ("httpx2", "httpcore2", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    handover = inherited()
    before = _published_before(handover)
    try:
        plugin.make_importable(config.absolute().parent)
        published, settings = reload.prepare(config, before, VALIDATORS, plugin.code)
    except (ConfigError, plugin.PluginError) as error:
        fail(str(error))
    for warning in key_warnings(settings):
        _log.warning("%s", warning)
    try:
        _raise_open_files()
        widen(worker_count(settings) + 1)
        _ready_folder(settings)
        zone = _zone(handover if before else None)
        master = _master(config, settings, zone, handover)
        # Last: a start that fails, because a gateway has the port already, must not disturb that one.
        if handover is None:
            meters.clear(settings.gateway.state_dir / "metrics")
        publish.write(settings.gateway.state_dir, published)
    except (OSError, ValueError, authority.CannotIssue) as error:
        fail(f"the gateway cannot start: {_explain(error)}")
    sys.exit(master.run())


def _explain(error: Exception) -> str:
    """Without the number that `str` puts in front of a system's error."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return f"{error.strerror}: {error.filename}" if error.filename else error.strerror


def _published_before(handover: Handover | None) -> publish.Published | None:
    """What the predecessor published last: its generation is continued, its endpoints keep their cells in the zone."""
    if handover is None:
        return None
    try:
        return publish.read(Path(handover.state_dir))
    except (OSError, msgspec.DecodeError):
        return None


def _raise_open_files() -> None:
    """Two descriptors for a request: the soft limit, often 1,024 for the sake of select(2), is soon too few."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _ready_folder(settings: Settings) -> None:
    """What every worker will open there, and the access log, opened once: here a failure is one line. Raises OSError,
    ValueError."""
    state_dir, log = settings.gateway.state_dir, settings.gateway.access_log.path
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (state_dir / "metrics").mkdir(exist_ok=True)
        ensure_secret(state_dir / SESSION_SECRETS, secrets.token_hex(32).encode())
        with tempfile.TemporaryFile(dir=state_dir):
            pass
    except OSError as error:
        raise OSError(error.errno, f"gateway.state_dir cannot be used: {error.strerror}", error.filename) from None
    try:
        Sessions(secrets_in((state_dir / SESSION_SECRETS).read_bytes()))
    except (OSError, ValueError) as error:
        raise ValueError(f"the secret of sessions cannot be used: {_explain(error)}") from None
    if log and log != "-":
        try:
            os.close(open_log(log))
        except OSError as error:
            if error.errno == errno.ENXIO:  # a named pipe that nobody reads yet: till then lines are lost, and counted
                return
            raise OSError(error.errno, f"gateway.access_log cannot be opened: {error.strerror}", log) from None


def _zone(handover: Handover | None) -> Zone:
    """The predecessor's, with all its counts and buckets, if this version reads it; a fresh one otherwise. Raises
    OSError."""
    if handover is not None:
        try:
            return Zone.adopt(handover.zone)
        except ValueError as error:
            _log.warning("%s: buckets and counts begin anew", error)
    try:
        return Zone.create(size_of())
    except OSError as error:
        raise OSError(error.errno, f"no shared memory for the zone: {error.strerror}") from None


def _master(config: Path, settings: Settings, zone: Zone, handover: Handover | None) -> Master:
    """Raises OSError, ValueError, CannotIssue."""
    check_exposure(settings.gateway.admin[0], read_token(settings.gateway.admin_token_file))
    limit_groups()
    try:
        created = authority.ensure(settings.tls.certificates)
    except OSError as error:
        raise OSError(error.errno, f"tls.certificates cannot be used: {error.strerror}", error.filename) from None
    if created is not None:
        _log.info("made a development certificate for %s", ", ".join(created.names))
        print(created.how_to_trust(settings.gateway.https[1]), file=sys.stderr)
    certificates = CertificateStore(settings.tls.certificates, settings.tls)
    for problem in certificates.reload(is_quick=True):
        _log.warning("%s", problem)
    # Absolute: the folder that we stand in may be removed, and another one put into its place.
    return Master(settings, config.absolute(), zone, certificates, handover)
