"""What systemd is told (sd_notify(3)), if it started us with Type=notify: that we serve, that we stop, and after a
handover, who is the service's main process now."""

import contextlib
import os
import socket
from collections.abc import Mapping


def notify(*lines: str, environ: Mapping[str, str] = os.environ) -> None:
    """Send `NAME=value` lines to whoever asked for them in NOTIFY_SOCKET. Nobody listening is no error."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address[0] == "@":  # an abstract name
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto("\n".join(lines).encode(), address)
